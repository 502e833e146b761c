"""The training stage: from tokens to `model/`, through TRL's SFTTrainer (of a classifier: transformers' Trainer)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from torch import nn
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer, pack_dataset

from lora_dist.config.experiment import Run
from lora_dist.config.sections import ADAPTER_KINDS, LORA_KINDS
from lora_dist.data.tokens import TokenSet
from lora_dist.errors import Interrupted, raise_together
from lora_dist.models.adapters import adapter_config
from lora_dist.models.device import PeakMemory, device_of, dtype_of, peak_memory, reset_peak_memory
from lora_dist.models.loading import load_model
from lora_dist.models.methods import (
    choose_trainable,
    hold_in_float32,
    quantization_config,
)
from lora_dist.models.prefix import load_prefix_maker, save_prefix_maker, start_prefix
from lora_dist.models.sparse_lora import recall_zeros, refuse_dense
from lora_dist.planning.batches import BatchPlan, StepPlan, plan_batches, plan_steps
from lora_dist.store.atomic import make_folder, write_json
from lora_dist.store.folders import RunFolder
from lora_dist.store.ledger import RESUMED, write_event
from lora_dist.team import Team
from lora_dist.training.agreement import StopTogether
from lora_dist.training.arguments import class_config, precision_problems, sft_config
from lora_dist.training.checkpoints import Makers, Resume, SealCheckpoints, find_resume
from lora_dist.training.classifier import ClassTrainer, make_class_trainer
from lora_dist.training.metrics import StepMetrics, cut_back
from lora_dist.training.order import FILLER_TOKENS, fillers_for, with_fillers
from lora_dist.training.parts import describe_trained, train_part_of, zero_stage_of
from lora_dist.training.saving import save_model
from lora_dist.training.steps import SameSteps
from lora_dist.training.stop import StopFlag
from lora_dist.training.validation import Validation, drop_all, drop_later
from lora_dist.world import World

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


class _Trainer(SameSteps, SFTTrainer):
    """TRL's trainer with our steps. Its loss is over all tokens of a step."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        save_prefix_maker(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not load_prefix_maker(self.model, Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)


AnyTrainer = _Trainer | ClassTrainer


def train_run(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    team: Team,
    stop: StopFlag,
    progress: Progress,
    validation_loss: Callable[[nn.Module], float],
) -> None:
    """Train `run`, or go on from its newest valid checkpoint, and leave `plan.json`, `model/` and `training.json`.

    Every rank of the team calls this; rank 0 writes.

    Args:
        validation_loss: of a model, the same on every rank; called by all, in a run that validates.
    Raises:
        Interrupted: a rank was asked to stop; a checkpoint of the step has been saved.
        TrainingDiverged: the loss became NaN or infinite.
        Refused: the device does not train in the precision that was asked for.
        ConfigError: the checkpoint to go on from was saved by another number of ranks.
        StorageError: the disk is full.
    """
    world = team.world
    device = device_of(world)
    raise_together(precision_problems(run, device))
    batches = plan_batches(run.train, world.size)
    resume = team.first_does(lambda: _take_up(folder, world, batches))

    progress(resume.step, 0, "loading the model")
    rows = training_rows(tokens, packing=run.data.packing, max_length=tokens.facts.max_length)
    steps = plan_steps(run.train, len(rows))
    plan = batches.document() | steps.document() | {"strategy": world.strategy}
    team.first_does(lambda: write_json(folder.plan, plan))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.log.parent / "tensorboard")  # where transformers looks
    pretrained = folder.pruned if run.prune else None
    trainer = _trainer_of(run, folder, tokens, rows, tokenizer, batches, steps, team)
    stopping = StopTogether(stop, team)

    def save(where: Path, *, is_final: bool = False) -> None:
        save_model(trainer, run, folder.id, where, tokenizer, team, pretrained, is_final=is_final)

    validation = _validation_of(run, folder, trainer, steps, validation_loss, save)
    _add_callbacks(trainer, run, folder, steps, validation, stopping, progress)
    reset_peak_memory(device)
    trainer.train(resume_from_checkpoint=str(resume.folder) if resume.folder else None)
    if stopping.has_stopped:
        raise Interrupted("interrupted after saving a checkpoint; the same command resumes")
    memory = max(team.gather(peak_memory(device)), key=lambda peak: peak.bytes)
    if validation is None or validation.patience is None:
        save(folder.model, is_final=True)
    else:
        validation.leave_best(folder.model, is_adapter=run.method.kind in ADAPTER_KINDS)
    _finish(run, folder, trainer, batches, steps, memory)
    _close(trainer)


def _validation_of(
    run: Run,
    folder: RunFolder,
    trainer: AnyTrainer,
    steps: StepPlan,
    measure: Callable[[nn.Module], float],
    save: Callable[[Path], None],
) -> Validation | None:
    """What measures the validation loss; None for a run that does not."""
    if steps.validation_steps is None:
        return None
    patience = run.train.early_stopping_patience
    return Validation(trainer, measure, save, every=steps.validation_steps, patience=patience, metrics=folder.metrics)


def _finish(
    run: Run, folder: RunFolder, trainer: AnyTrainer, batches: BatchPlan, steps: StepPlan, memory: PeakMemory
) -> None:
    """Write the training's figures, which say that `model/` is the final one; what was kept for it can then go."""
    model_part, stage = describe_trained(trainer, run), zero_stage_of(trainer)

    def write() -> None:
        train_part = train_part_of(run, folder, batches, steps, memory, stage)
        write_json(folder.training, {"train": train_part.model_dump(), "model": model_part.model_dump()})
        drop_all(folder.checkpoints)

    trainer.team.first_does(write)


def _trainer_of(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    batches: BatchPlan,
    steps: StepPlan,
    team: Team,
) -> AnyTrainer:
    """The trainer of the run's task."""
    place = {"folder": folder.checkpoints, "device": device_of(team.world)}
    if tokens.facts.labels is not None:
        args = class_config(run, batches, steps, **place)
        return make_class_trainer(run, args, rows, tokenizer, tokens.facts.labels, place["device"], team)
    config = sft_config(run, batches, steps, **place, max_length=tokens.facts.max_length)
    pretrained = folder.pruned if run.prune else None
    return make_trainer(run, config, rows, tokenizer, place["device"], team, pretrained=pretrained)


def training_rows(tokens: TokenSet, *, packing: bool, max_length: int) -> Dataset:
    """The train split as the trainer takes it: as it is, or several rows per sequence, kept apart by positions.

    Packing is best-fit decreasing over whole rows (arXiv 2404.10830); no row is longer than `max_length`, so none is
    cut. TRL's `wrapped` strategy would let rows attend across their borders and is never used.
    """
    disable_progress_bars()  # progress is shown in one place
    rows = Dataset(tokens.rows("train").table)
    return pack_dataset(rows, max_length, "bfd") if packing else rows


def make_trainer(
    run: Run,
    config: SFTConfig,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    team: Team,
    *,
    pretrained: Path | None = None,
) -> _Trainer:
    """The trainer over the pretrained model, with what the run's method trains unfrozen or added.

    Args:
        pretrained: a folder of weights that the training starts from, instead of the source's.
    Raises:
        ModelError: the model cannot be opened.
    """
    dtype = dtype_of(run.model, device)
    shared_out = team.world.strategy == "zero3"
    model = load_model(
        run.model,
        device=device,
        dtype=dtype,
        folder=pretrained,
        quantization=quantization_config(run.method, dtype),
        shared_out=shared_out,
    )
    recall_zeros(model, run, pretrained)
    choose_trainable(model, run.method)
    fillers = fillers_for(len(rows), config.per_device_train_batch_size, team.world.size)
    trainer = _Trainer(
        model=model,
        args=config,
        train_dataset=with_fillers(rows, fillers),
        processing_class=tokenizer,
        peft_config=adapter_config(model, run.method),
        team=team,
        fillers=fillers,
    )
    if run.method.kind in LORA_KINDS and run.method.preserve_sparsity:
        refuse_dense(trainer.model)
    if run.method.kind == "prefix":
        start_prefix(trainer.model, rows["input_ids"])
    if not shared_out:  # ZeRO-3 wants one dtype, and holds float32 copies of what is trained itself
        hold_in_float32(trainer.model)
    return trainer


def _take_up(folder: RunFolder, world: World, batches: BatchPlan) -> Resume:
    """Where the run continues; what comes after that step is cut from its metrics and its kept models."""
    resume = find_resume(make_folder(folder.checkpoints), makers=Makers.of(folder.id, world))
    for reason in resume.skipped:
        log.warning("passing over checkpoint %s", reason)
    if resume.folder:
        log.info("going on from %s", resume.folder.name)
        write_event(folder.experiment.ledger, folder.id, RESUMED, step=resume.step)
    log.info("%s", batches)
    cut_back(folder.metrics, resume.step)
    drop_later(folder.checkpoints, resume.step)
    return resume


def _add_callbacks(
    trainer: AnyTrainer,
    run: Run,
    folder: RunFolder,
    steps: StepPlan,
    validation: Validation | None,
    stopping: StopTogether,
    progress: Progress,
) -> None:
    """Sealing comes before measuring, whose clock starts after it and stops before a validation; a stop after all."""
    team = trainer.team
    trainer.remove_callback(PrinterCallback)
    makers = Makers.of(folder.id, team.world)
    trainer.add_callback(
        SealCheckpoints(folder.checkpoints, folder.metrics, makers=makers, keep=run.train.keep_checkpoints, team=team)
    )
    trainer.add_callback(
        StepMetrics(
            folder.metrics,
            trainer.args.device,
            run.train.learning_rate,
            team,
            scored_tokens=lambda: int(trainer.scored_tokens_of_step),
            filler_tokens=lambda step: 0 if step % steps.steps_per_epoch else trainer.fillers * FILLER_TOKENS,
            step_was_skipped=lambda: trainer.accelerator.optimizer_step_was_skipped,
            validation_loss=lambda step: validation.at(step) if validation else None,
            progress=progress,
        )
    )
    if validation is not None:
        trainer.add_callback(validation)
    trainer.add_callback(stopping)


def _close(trainer: _Trainer) -> None:
    """Let go of the engine, so that the evaluation has the memory."""
    if hasattr(trainer.model_wrapped, "destroy"):
        trainer.model_wrapped.destroy()
    trainer.accelerator.free_memory()
