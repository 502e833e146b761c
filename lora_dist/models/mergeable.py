"""Which adapters can be merged: a product B A added to a linear's weight, and nothing else, or the scales of (IA)^3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lora_dist.errors import ModelError
from lora_dist.models.adapter_folder import CONFIG, AdapterFolder
from lora_dist.models.beyond_lora import beyond_lora


def refuse_unmergeable(adapters: Sequence[AdapterFolder], weights: Sequence[float], method: str) -> None:
    """Make sure that each adapter's config describes plain LoRA (or a single DoRA or (IA)^3).

    Raises:
        ModelError: one does not.
    """
    for adapter in adapters:
        if adapter.kind == "prefix":
            problem = "is a prefix, which comes before the tokens and is no change of the weights"
            raise ModelError(key=adapter.name, problem=problem, fix="leave it out: it is used unmerged, by peft")
        is_alone = len(adapters) == 1 and tuple(weights) == (1.0,) and method in _PLAIN
        if adapter.kind == "ia3":
            if not is_alone:
                problem = "is an (IA)^3 adapter, which scales weights and cannot be weighted or added to others"
                raise ModelError(key=adapter.name, problem=problem, fix=_ALONE)
            continue
        _check_numbers(adapter)
        unusual = beyond_lora(adapter.config)
        if unusual:
            raise ModelError(
                key=adapter.name,
                problem=f"is more than LoRA of linears ({', '.join(unusual)})",
                fix="merge it with peft's merge_and_unload",
            )
        if adapter.config.use_dora and not is_alone:
            problem = "is a DoRA adapter, which scales whole weights and cannot be weighted or added to others"
            raise ModelError(key=adapter.name, problem=problem, fix=_ALONE)


_PLAIN = ("linear", "weighted")
_ALONE = "merge it alone, with weight 1 and method linear"


def _check_numbers(adapter: AdapterFolder) -> None:
    """What scales the update; peft takes any JSON there."""
    config = adapter.config
    ranks = {"r": config.r, **_pattern(adapter, "rank_pattern")}
    alphas = {"lora_alpha": config.lora_alpha, **_pattern(adapter, "alpha_pattern")}
    for name, value in ranks.items():
        if not _is_number(value) or value != int(value) or value < 1:
            raise _damaged(adapter, f"{name} is {value!r}, not a rank")
    for name, value in alphas.items():
        if not _is_number(value):
            raise _damaged(adapter, f"{name} is {value!r}, not a number")


def _pattern(adapter: AdapterFolder, name: str) -> dict[str, Any]:
    found = getattr(adapter.config, name) or {}
    if not isinstance(found, dict):
        raise _damaged(adapter, f"{name} is no mapping")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _damaged(adapter: AdapterFolder, problem: str) -> ModelError:
    return ModelError(
        key=str(adapter.path / CONFIG), problem=f"is damaged ({problem})", fix="copy the adapter's folder again"
    )
