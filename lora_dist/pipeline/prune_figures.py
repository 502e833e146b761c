"""The figures of a pruning: what its report says, and what a live model holds of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from lora_dist.config.experiment import Run
from lora_dist.config.sections import ADAPTER_KINDS
from lora_dist.errors import LoraDistError
from lora_dist.models.masks import count_zeros
from lora_dist.pruning.output import read_report
from lora_dist.store.folders import RunFolder
from lora_dist.store.record import PrunePart

_STAYS_PRUNED = ("base", *ADAPTER_KINDS)
"""Methods that leave the base's weights as they are."""


def prune_part(run: Run, folder: RunFolder, model: nn.Module | None = None) -> PrunePart:
    """The prune part of a record: what pruning.json says, and what a live model holds of it.

    Raises:
        LoraDistError: weights that were pruned are not zero in the model that is to be measured.
    """
    report = read_report(folder.pruned)
    linears = [linear for block in report["blocks"] for linear in block["linears"]]
    settings, calibration = report["settings"], report["calibration"]
    errors = [linear["mean_squared_error"] for linear in linears if linear["mean_squared_error"] is not None]
    weights, zeros = (sum(linear[name] for linear in linears) for name in ("weights", "zeros"))
    return PrunePart(
        kind=settings["kind"],
        sparsity=zeros / weights if weights else 0.0,
        pattern=settings["pattern"],
        mode=settings.get("mode", "exact"),
        is_approximate=report["is_approximate"],
        calibration_samples=calibration["samples"],
        calibration_length=calibration["length"],
        calibration_hash=calibration["hash"],
        linears=len(linears),
        weights=weights,
        mean_squared_error=sum(errors) / len(errors) if errors else None,
        largest_damping=max((linear["damping"] for linear in linears if linear["damping"]), default=None),
        seconds=sum(block["seconds"] for block in report["blocks"]),
        world_size=report["world_size"],
        peak_memory_bytes=max(block["peak_memory_bytes"] for block in report["blocks"]),
        peak_memory_kind=report["peak_memory_kind"],
        measured_sparsity=_measured_sparsity(run, folder, model) if model is not None else None,
    )


def linears_pruned(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """What pruning.json tells of each linear, with its block."""
    for block in read_report(folder.pruned)["blocks"]:
        for linear in block["linears"]:
            yield {"block": block["block"], **linear}


def _measured_sparsity(run: Run, folder: RunFolder, model: nn.Module) -> float:
    zeros = count_zeros(model, folder.pruned)
    if zeros.refilled and run.method.kind in _STAYS_PRUNED:
        raise LoraDistError(
            f"{zeros.refilled:,} of {zeros.masked:,} pruned weights are not zero in the model that was loaded"
        )
    return zeros.zeros / zeros.weights if zeros.weights else 0.0
