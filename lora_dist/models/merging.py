"""Adapters merged into the weights of their base, tensor by tensor from disk to disk.

What is in memory: one shard of the result, the factors, and the tensor at hand with its update in float32. So a model
larger than the memory is merged, and one of 4-bit training goes into the 16-bit weights, never into rounded ones.
"""

# Dims: R outputs, C inputs of a linear; the weight of GPT-2's Conv1D is stored [C, R].

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from lora_dist.config.sections import ModelSection
from lora_dist.errors import ConfigError, ModelError
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.combining import Combination, combined_update
from lora_dist.models.factors import read_factors
from lora_dist.models.loading import empty_model
from lora_dist.models.sources import model_error
from lora_dist.models.stored import StoredWeights
from lora_dist.store.atomic import sync_file, write_json

_MOST_SHARD, _LEAST_SHARD, _SHARDS = 5 * 10**9, 256 * 2**20, 8
"""Bytes of a file of the result: an eighth of the model, within these bounds."""
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class MergedWeights:
    """What merging did to the weights of the linears under the adapters."""

    linears: int
    weights: int
    zeros_before: int
    """Zeros among them in the base."""
    zeros_after: int
    filled: int
    """Zeros of the base that the update has filled."""
    kept_zeros: bool
    """Whether the update was masked by the base's zeros."""
    dtype: str
    """Of the merged weights."""


class Merge:
    """Adapters that fit each other and their base, ready to be merged."""

    def __init__(
        self,
        base: ModelSection,
        adapters: Sequence[AdapterFolder],
        combination: Combination | None = None,
        *,
        keep_zeros: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Read the factors, and compare them with the base's shapes.

        Args:
            keep_zeros: mask the update by the base's zeros, even if the adapters were not trained so. An adapter that
                was is always masked, and so is all that is merged together with it.
            dtype: of the result; the base's own, if not given.
        Raises:
            ModelError: a file is damaged, or an adapter does not fit the base.
            ConfigError: the adapters cannot be combined so.
        """
        self.combination = combination or Combination(weights=(1.0,) * len(adapters))
        self.combination.check(len(adapters))
        self.base, self.adapters, self.dtype = base, tuple(adapters), dtype
        self.keeps_zeros = keep_zeros or any(adapter.keeps_zeros for adapter in adapters)
        _refuse_dora(self.adapters)
        self._factors = [read_factors(adapter) for adapter in self.adapters]
        self._stored = StoredWeights.of_source(base)
        self._linears = self._find_linears(base)

    def _find_linears(self, base: ModelSection) -> dict[str, _Target]:
        """By the name under which its weight is stored."""
        model = empty_model(base)
        if getattr(model.config, "quantization_config", None) is not None:
            raise model_error(
                base,
                "is stored quantised, and merging into rounded weights loses what was trained",
                "give the 16-bit base",
            )
        names = self._stored.names_for(model)
        modules = dict(model.named_modules())
        targets: dict[str, _Target] = {}
        for adapter, factors in zip(self.adapters, self._factors, strict=True):
            for module, part in factors.items():
                stored = names.get(f"{module}.weight")
                if stored is None:
                    raise _misfit(adapter, base, f"there is no weight '{module}' in it")
                is_turned = type(modules[module]).__name__ == "Conv1D"
                shape = self._stored.tensors[stored].shape
                if (tuple(reversed(shape)) if is_turned else shape) != part.shape:
                    raise _misfit(adapter, base, f"{module} is {list(shape)} there, and its update {list(part.shape)}")
                if self._stored.dtype_of(stored) not in _FLOATS:
                    raise model_error(
                        base, f"holds {module} as {self._stored.tensors[stored].dtype}", "give the 16-bit base"
                    )
                targets[stored] = _Target(module, is_turned)
        if self.combination.needs_equal_ranks():
            self._refuse_unequal_ranks([target.module for target in targets.values()])
        return targets

    def _refuse_unequal_ranks(self, modules: Sequence[str]) -> None:
        for module in modules:
            ranks = [factors[module].rank for factors in self._factors if module in factors]
            if len(set(ranks)) > 1:
                raise ConfigError(
                    key="--method",
                    problem=f"linear adds up factors, and those of {module} have ranks {', '.join(map(str, ranks))}",
                    fix="use weighted, which adds up what they do to the weights, or ties or dare",
                )

    @property
    def stored_dtype(self) -> torch.dtype:
        """That of the base's files."""
        return self._stored.dtype_of(next(iter(self._linears)))

    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(map(self._bytes_of, self._stored.tensors))

    def write(self, folder: Path, progress: Progress, device: torch.device | None = None) -> MergedWeights:
        """Write the merged weights into `folder`: model.safetensors, or shards and their index.

        Raises:
            SafetensorError, OSError: the disk is full.
        """
        device = device or torch.device("cpu")
        shards = deal(
            {name: self._bytes_of(name) for name in self._stored.tensors},
            min(_MOST_SHARD, max(_LEAST_SHARD, self.bytes() // _SHARDS)),
        )
        counts, done = _Counts(), 0
        for number, names in enumerate(shards, 1):
            tensors: dict[str, Tensor] = {}
            for name in names:
                progress(done, len(self._stored.tensors), name)
                tensors[name] = self._merged(name, device, counts)
                done += 1
            path = folder / shard_name(number, len(shards))
            save_file(tensors, path, metadata={"format": "pt"})
            sync_file(path)
        if len(shards) > 1:
            _write_index(folder, shards, self.bytes())
        progress(done, done, "merged")
        dtypes = {self._dtype_of(name) for name in self._linears}
        return MergedWeights(
            linears=len(self._linears),
            kept_zeros=self.keeps_zeros,
            dtype=", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
            **vars(counts),
        )

    def _dtype_of(self, name: str) -> torch.dtype:
        stored = self._stored.dtype_of(name)
        return self.dtype if self.dtype is not None and stored in _FLOATS else stored

    def _bytes_of(self, name: str) -> int:
        return math.prod(self._stored.tensors[name].shape) * self._dtype_of(name).itemsize

    def _merged(self, name: str, device: torch.device, counts: _Counts) -> Tensor:
        """One tensor of the result: the sum is rounded once."""
        target = self._linears.get(name)
        if target is None:
            return self._stored.read(name, dtype=self._dtype_of(name))
        base = self._stored.read(name, device=device)
        base_RC = base.T if target.is_turned else base
        was_zero_RC = base_RC == 0
        parts = [factors.get(target.module) for factors in self._factors]
        keep_RC = ~was_zero_RC if self.keeps_zeros else None
        update_RC = combined_update(parts, self.combination, target.module, keep_RC, device)
        merged_RC = update_RC.add_(base_RC) if base.dtype != torch.float64 else update_RC.double() + base_RC
        magnitude_R = parts[0].magnitude if parts[0] else None
        if magnitude_R is not None:
            merged_RC *= (magnitude_R.to(device) / torch.linalg.vector_norm(merged_RC, dim=1))[:, None]
        merged_RC = merged_RC.to(self._dtype_of(name))
        counts.add(was_zero_RC, merged_RC == 0)
        return (merged_RC.T if target.is_turned else merged_RC).contiguous().cpu()


@dataclass(frozen=True)
class _Target:
    """A linear under some adapter."""

    module: str
    is_turned: bool
    """Stored [inputs, outputs]."""


@dataclass
class _Counts:
    weights: int = 0
    zeros_before: int = 0
    zeros_after: int = 0
    filled: int = 0

    def add(self, was_zero: Tensor, is_zero: Tensor) -> None:
        self.weights += was_zero.numel()
        self.zeros_before += int(was_zero.sum())
        self.zeros_after += int(is_zero.sum())
        self.filled += int((was_zero & ~is_zero).sum())


def deal(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in their order, dealt to shards of at most so many bytes; a tensor above that has one to itself."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def shard_name(number: int, shards: int) -> str:
    """The file of shard `number`, from 1, as transformers names it."""
    return SAFE_WEIGHTS_NAME if shards == 1 else f"model-{number:05d}-of-{shards:05d}.safetensors"


def _write_index(folder: Path, shards: Sequence[Sequence[str]], size: int) -> None:
    files = {name: shard_name(number, len(shards)) for number, names in enumerate(shards, 1) for name in names}
    write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": {"total_size": size}, "weight_map": files})


def _refuse_dora(adapters: Sequence[AdapterFolder]) -> None:
    if len(adapters) > 1:
        for adapter in adapters:
            if adapter.config.use_dora:
                problem = "is a DoRA adapter, which scales whole weights and cannot be added to others"
                raise ModelError(key=adapter.name, problem=problem, fix="merge it alone")


def _misfit(adapter: AdapterFolder, base: ModelSection, problem: str) -> ModelError:
    return ModelError(
        key=adapter.name, problem=f"does not fit '{base.path}': {problem}", fix="give the base that it was trained on"
    )
