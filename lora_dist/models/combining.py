"""Several adapters as one update of a linear: by their factors, or by what they add to its weight."""

# Dims: R outputs, C inputs, K rank.

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence

import torch
from peft.utils import merge_utils
from torch import Tensor

from lora_dist.config.combination import Combination
from lora_dist.models.factors import Factors


def combined_update(
    factors: Sequence[Factors | None], combination: Combination, name: str, keep_RC: Tensor | None, device: torch.device
) -> Tensor:
    """What is added to the weight of a linear [R, C], in float32.

    Args:
        factors: of each adapter; None for one that leaves this linear alone.
        name: of the linear: dare draws anew for each, whatever the order in which they come.
        keep_RC: where the base is not zero, if its zeros are to be kept: nothing else of an update counts.
    """
    pairs = [(part, weight) for part, weight in zip(factors, combination.weights, strict=True) if part is not None]
    parts = [Factors(_float(part.a, device), _float(part.b, device), part.scaling) for part, _ in pairs]
    weights = [weight for _, weight in pairs]
    if combination.method == "linear":
        return _masked(_by_factors(parts, weights), keep_RC)
    if combination.method == "weighted":
        total_RC = torch.zeros(parts[0].shape, device=device)
        for part, weight in zip(parts, weights, strict=True):
            total_RC.addmm_(part.b, part.a, alpha=part.scaling * weight)
        return _masked(total_RC, keep_RC)
    updates = [_masked((part.b @ part.a).mul_(part.scaling), keep_RC) for part in parts]
    weights_N = torch.tensor(weights, device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings(action="ignore"):
        # peft (0.21) warns of a density of 1, which keeps all
        torch.manual_seed(_seed_of(combination.seed, name))
        combine = merge_utils.ties if combination.method == "ties" else merge_utils.dare_linear
        return combine(updates, weights_N, combination.density)


def _by_factors(parts: Sequence[Factors], weights: Sequence[float]) -> Tensor:
    """(sum of B sqrt|w s|) (sum of A sqrt|w s| sign(w s)): what peft's `linear` makes; exact for one adapter."""
    scales = [part.scaling * weight for part, weight in zip(parts, weights, strict=True)]
    if len(parts) == 1:
        return (parts[0].b * scales[0]) @ parts[0].a
    a_KC = sum(part.a * math.copysign(math.sqrt(abs(scale)), scale) for part, scale in zip(parts, scales, strict=True))
    b_RK = sum(part.b * math.sqrt(abs(scale)) for part, scale in zip(parts, scales, strict=True))
    return b_RK @ a_KC


def _float(factor: Tensor, device: torch.device) -> Tensor:
    return factor.to(device, torch.float32)


def _masked(update_RC: Tensor, keep_RC: Tensor | None) -> Tensor:
    return update_RC if keep_RC is None else update_RC.masked_fill_(~keep_RC, 0)


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1
