"""micro-batch x accumulation x ranks = global batch: the plan of a run's optimizer steps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from lora_dist.config.sections import TrainSection
from lora_dist.errors import ConfigError

LARGEST_AUTO_MICRO_BATCH = 8


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step is put together. All counts are of sequences."""

    world_size: int
    micro_batch_size: int
    accumulation: int
    global_batch_size: int

    @property
    def arithmetic(self) -> str:
        """micro-batch x accumulation x ranks = global batch."""
        return f"{self.micro_batch_size} x {self.accumulation} x {self.world_size} = {self.global_batch_size}"

    def __str__(self) -> str:
        ranks = "1 rank" if self.world_size == 1 else f"{self.world_size} ranks"
        return (
            f"micro-batch {self.micro_batch_size} x accumulation {self.accumulation} x {ranks} "
            f"= {self.global_batch_size} sequences per step"
        )

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {**asdict(self), "arithmetic": str(self)}


def plan_batches(train: TrainSection, world_size: int) -> BatchPlan:
    """Split the global batch over ranks and accumulation.

    Raises:
        ConfigError: the ranks, or the micro-batch that was asked for, do not divide the global batch.
    """
    total = train.global_batch_size
    if total % world_size:
        raise ConfigError(
            key="train.global_batch_size",
            problem=f"{total} sequences cannot be shared equally by {world_size} ranks",
            fix=f"use a multiple of {world_size}, such as {math.ceil(total / world_size) * world_size}",
        )
    per_rank = total // world_size
    if train.micro_batch_size == "auto":
        micro = max(size for size in range(1, LARGEST_AUTO_MICRO_BATCH + 1) if per_rank % size == 0)
    else:
        micro = train.micro_batch_size
    if per_rank % micro:
        divisors = [size for size in range(1, per_rank + 1) if per_rank % size == 0]
        raise ConfigError(
            key="train.micro_batch_size",
            problem=f"{micro} does not divide the {per_rank} sequences that each rank has per step",
            fix=f"use one of {', '.join(map(str, divisors))}, or auto",
        )
    return BatchPlan(world_size, micro, per_rank // micro, total)


@dataclass(frozen=True)
class StepPlan:
    """How many optimizer steps a run makes."""

    steps: int
    steps_per_epoch: int
    checkpoint_steps: int
    validation_steps: int | None = None
    """How often the validation loss is measured, if it is."""

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return asdict(self)


CHECKPOINTS_PER_RUN = 5


def plan_steps(train: TrainSection, sequences: int) -> StepPlan:
    """Count the optimizer steps over `sequences` train sequences; the last step of an epoch may be short."""
    per_epoch = max(1, math.ceil(sequences / train.global_batch_size))
    steps = train.max_steps or max(1, math.ceil(train.epochs * per_epoch))
    checkpoints = train.checkpoint_steps or max(1, math.ceil(steps / CHECKPOINTS_PER_RUN))
    validations = train.validation_steps or (per_epoch if train.early_stopping_patience is not None else None)
    return StepPlan(steps, per_epoch, checkpoints, validations)
