"""QLoRA in LoRA's place, where one GPU is too small: decided once, before the training, and kept with the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from lora_dist.config.experiment import Run
from lora_dist.errors import Problem
from lora_dist.models.device import memory_of
from lora_dist.pipeline.estimates import setting_of, shape_of_run
from lora_dist.planning.choice import fallback_of, fit_problems
from lora_dist.store.atomic import write_json
from lora_dist.store.folders import RunFolder
from lora_dist.world import World

log = logging.getLogger(__name__)


def room_problems(run: Run, world: World) -> Iterator[Problem]:
    """Why a run on one GPU does not fit, by the estimate; several ranks and models of unknown shape are let through."""
    shape = shape_of_run(run)
    gpu_bytes = memory_of(world)
    if world.size == 1 and world.strategy == "plain" and shape is not None and gpu_bytes is not None:
        yield from fit_problems(shape, setting_of(run, shape), gpu_bytes)


def decide_method(run: Run, folder: RunFolder, gpu_bytes: int | None) -> None:
    """Write `method.json` where QLoRA has to take LoRA's place; what an earlier attempt decided stays.

    Args:
        gpu_bytes: memory of the one GPU; None where there is none, or there are several.
    """
    shape = shape_of_run(run)
    if folder.method.exists() or shape is None or gpu_bytes is None or folder.training.exists():
        return
    fallback = fallback_of(shape, setting_of(run, shape), gpu_bytes)
    if fallback is not None:
        log.warning("%s", fallback.why)
        asked = {"fallback_from": run.method.kind, "fallback_reason": fallback.why}
        write_json(folder.method, asked | {"kind": fallback.method.kind})


def as_decided(run: Run, folder: RunFolder) -> Run:
    """The run with the method that was decided for it."""
    if not folder.method.exists():
        return run
    kind = json.loads(folder.method.read_text(encoding="utf-8"))["kind"]
    return run.model_copy(update={"method": run.method.model_copy(update={"kind": kind})})


def method_part(run: Run, folder: RunFolder) -> dict[str, object]:
    """The method part of a record: what was trained, and what had been asked for where that is something else."""
    decided = json.loads(folder.method.read_text(encoding="utf-8")) if folder.method.exists() else {}
    return run.method.relevant() | decided
