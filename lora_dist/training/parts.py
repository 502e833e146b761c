"""What a run's training has to tell for its record."""

from __future__ import annotations

import dataclasses

from transformers import Trainer

from lora_dist.config.experiment import Run
from lora_dist.models.device import PeakMemory
from lora_dist.models.methods import describe_model
from lora_dist.planning.batches import BatchPlan, StepPlan
from lora_dist.store.folders import RunFolder
from lora_dist.store.ledger import resumed_steps
from lora_dist.store.record import ModelPart, TrainPart, ValidationPart
from lora_dist.training.classifier import ClassTrainer
from lora_dist.training.metrics import figures_of
from lora_dist.training.validation import Losses


def describe_trained(trainer: Trainer, run: Run) -> ModelPart:
    """The model as it was trained. DeepSpeed holds what is trained in half precision, beside float32 copies of it."""
    part = describe_model(run, trainer.model)
    if isinstance(trainer, ClassTrainer):
        part = part.model_copy(update={"drawn_modules": list(trainer.drawn)})
    if zero_stage_of(trainer) and part.trainable_dtype != "float32":
        return part.model_copy(update={"trainable_dtype": f"{part.trainable_dtype} with float32 masters"})
    return part


def train_part_of(
    run: Run, folder: RunFolder, batches: BatchPlan, steps: StepPlan, memory: PeakMemory, zero_stage: int
) -> TrainPart:
    """The training part of the record, once every step has its line."""
    keeps_best = run.train.early_stopping_patience is not None
    return TrainPart(
        **dataclasses.asdict(figures_of(folder.metrics, steps.steps_per_epoch)),
        peak_memory_bytes=memory.bytes,
        peak_memory_kind=memory.kind,
        peak_reserved_bytes=memory.reserved_bytes,
        **dataclasses.asdict(batches),
        validation=_validation_part(Losses.of(folder.metrics), steps, keeps_best=keeps_best),
        zero_stage=zero_stage,
        learning_rate=run.train.learning_rate,
        resumed_from_steps=resumed_steps(folder.experiment.ledger, folder.id),
    )


def _validation_part(losses: Losses, steps: StepPlan, *, keeps_best: bool) -> ValidationPart | None:
    if not losses.by_step:
        return None
    return ValidationPart(
        steps_planned=steps.steps,
        best_step=losses.best_step,
        best_loss=losses.by_step[losses.best_step],
        last_loss=losses.by_step[max(losses.by_step)],
        keeps_best=keeps_best,
    )


def zero_stage_of(trainer: Trainer) -> int:
    """The ZeRO stage of the live engine; 0 when no DeepSpeed engine drives the training."""
    engine = trainer.model_wrapped
    stage = getattr(engine, "zero_optimization_stage", None)
    return int(stage()) if callable(stage) else 0
