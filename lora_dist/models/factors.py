"""The low-rank factors of an adapter's file, by the linear that they belong to."""

# Dims: R outputs, C inputs, K rank.

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lora_dist.errors import ModelError
from lora_dist.models.adapter_folder import AdapterFolder

_KEY = re.compile(
    r"base_model\.model\.(?P<module>[\w.]+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)"
)


@dataclass(frozen=True)
class Factors:
    """The update of one linear: scaling * B A."""

    a: Tensor
    """[K, C]"""
    b: Tensor
    """[R, K]"""
    scaling: float
    magnitude: Tensor | None = None
    """[R]: DoRA's length of each output's weights."""

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return len(self.a)

    @property
    def shape(self) -> tuple[int, int]:
        """[outputs, inputs]."""
        return len(self.b), self.a.shape[1]

    def of_outputs(self, rows: slice) -> Factors:
        """Those of some outputs alone."""
        return replace(self, b=self.b[rows], magnitude=None if self.magnitude is None else self.magnitude[rows])


def read_factors(adapter: AdapterFolder) -> dict[str, Factors]:
    """All factors in the file's own precision, by the linear's name in the model.

    Raises:
        ModelError: the file is damaged, or holds something else than LoRA of linears (trained embeddings, biases, ...).
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors_in(adapter.weights).items():
        match = _KEY.fullmatch(key.removesuffix(".weight") if "magnitude" in key else key)
        if match is None:
            raise damaged(adapter.weights, f"holds '{key[:120]}', which is no factor of a linear")
        if not torch.isfinite(tensor).all():
            raise damaged(adapter.weights, f"is not finite at {key}", "train it again with a lower learning rate")
        tensors.setdefault(match["module"], {})[match["part"].removesuffix(".weight")] = tensor
    if not tensors:
        raise damaged(adapter.weights, "is empty")
    return {module: _factors(adapter, module, parts) for module, parts in tensors.items()}


def tensors_in(path: Path) -> dict[str, Tensor]:
    """All tensors of an adapter's file.

    Raises:
        ModelError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(
            key=str(path), problem=f"is damaged: {' '.join(str(error).split())}", fix="copy or download it again"
        ) from error


def _factors(adapter: AdapterFolder, module: str, parts: Mapping[str, Tensor]) -> Factors:
    a_KC, b_RK, magnitude_R = (parts.get(name) for name in ("lora_A", "lora_B", "lora_magnitude_vector"))
    if a_KC is None or b_RK is None:
        raise damaged(adapter.weights, f"lacks lora_A or lora_B of {module}")
    if a_KC.ndim != 2 or b_RK.ndim != 2 or len(a_KC) != b_RK.shape[1] or not a_KC.numel() or not b_RK.numel():
        raise damaged(adapter.weights, f"has factors {list(b_RK.shape)} and {list(a_KC.shape)} of {module}")
    if adapter.config.use_dora != (magnitude_R is not None):
        raise damaged(adapter.weights, f"{'lacks' if adapter.config.use_dora else 'has'} a DoRA magnitude of {module}")
    if magnitude_R is not None and magnitude_R.shape != (len(b_RK),):
        raise damaged(adapter.weights, f"has a DoRA magnitude {list(magnitude_R.shape)} of {module}")
    return Factors(a_KC, b_RK, scaling_of(adapter.config, module), magnitude_R)


def scaling_of(config: LoraConfig, module: str) -> float:
    """alpha / rank of one linear, or alpha / sqrt(rank), with what the config says of that linear by name."""
    alpha, rank = _named(config.alpha_pattern, module, config.lora_alpha), rank_of(config, module)
    return alpha / (math.sqrt(rank) if config.use_rslora else rank)


def rank_of(config: LoraConfig, module: str) -> int:
    """The inner dimension that the config says of one linear."""
    return int(_named(config.rank_pattern, module, config.r))


def _named(patterns: Mapping[str, float] | None, module: str, otherwise: float) -> float:
    return (patterns or {}).get(get_pattern_key(list(patterns or {}), module), otherwise)


def damaged(
    path: Path, problem: str, fix: str = "copy the adapter's folder again, or merge it with peft"
) -> ModelError:
    """An adapter's file that cannot be merged as it is."""
    return ModelError(key=str(path), problem=problem, fix=fix)
