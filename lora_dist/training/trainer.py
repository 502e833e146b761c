"""The training stage: from tokens to `model/`, through TRL's SFTTrainer."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTTrainer, pack_dataset

from lora_dist.config.experiment import Run
from lora_dist.data.tokens import TokenSet
from lora_dist.models.adapters import ADAPTER_KINDS, check_saved_adapter, lora_config
from lora_dist.models.device import device_of, dtype_of, peak_memory, reset_peak_memory
from lora_dist.models.loading import load_model
from lora_dist.models.methods import (
    choose_trainable,
    describe_model,
    hold_in_float32,
    quantization_config,
)
from lora_dist.planning.batches import BatchPlan, plan_batches, plan_steps
from lora_dist.store.atomic import make_folder, whole_folder, write_json
from lora_dist.store.folders import RunFolder
from lora_dist.store.ledger import RESUMED, resumed_steps, write_event
from lora_dist.store.record import TrainPart
from lora_dist.training.arguments import sft_config
from lora_dist.training.checkpoints import Resume, SealCheckpoints, find_resume
from lora_dist.training.metrics import StepMetrics, cut_back, figures_of
from lora_dist.world import World

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


class _CountingTrainer(SFTTrainer):
    """SFTTrainer that remembers how many tokens the loss of the current optimizer step is over."""

    scored_tokens_of_step = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.scored_tokens_of_step = num_items_in_batch
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def train_run(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    progress: Progress,
) -> None:
    """Train `run`, or go on from its newest valid checkpoint, and leave `model/` and `training.json`.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        StorageError: the disk is full.
    """
    device = device_of(world)
    batches = plan_batches(run.train, world.size)
    checkpoints = make_folder(folder.checkpoints)
    resume = find_resume(checkpoints, run_id=folder.id, world_size=world.size)
    _announce(resume, batches)
    if resume.folder:
        write_event(folder.experiment.ledger, folder.id, RESUMED, step=resume.step)
    cut_back(folder.metrics, resume.step)

    progress(resume.step, 0, "loading the model")
    model = _trainable_model(run, device)
    rows = training_rows(tokens, packing=run.data.packing, max_length=tokens.facts.max_length)
    steps = plan_steps(run.train, len(rows))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.log.parent / "tensorboard")  # where transformers looks
    trainer = _CountingTrainer(
        model=model,
        args=sft_config(run, batches, steps, folder=checkpoints, device=device, max_length=tokens.facts.max_length),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(run.method) if run.method.kind in ADAPTER_KINDS else None,
    )
    hold_in_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(
        StepMetrics(
            folder.metrics, device, run.train.learning_rate, lambda: int(trainer.scored_tokens_of_step), progress
        )
    )
    trainer.add_callback(
        SealCheckpoints(checkpoints, run_id=folder.id, world_size=world.size, keep=run.train.keep_checkpoints)
    )
    model_part = describe_model(run, trainer.model)
    reset_peak_memory(device)
    trainer.train(resume_from_checkpoint=str(resume.folder) if resume.folder else None)
    memory = peak_memory(device)

    _save(trainer, run, folder, tokenizer, device)
    figures = figures_of(folder.metrics, steps.steps_per_epoch)
    train_part = TrainPart(
        **dataclasses.asdict(figures),
        peak_memory_bytes=memory.bytes,
        peak_memory_kind=memory.kind,
        peak_reserved_bytes=memory.reserved_bytes,
        **dataclasses.asdict(batches),
        zero_stage=zero_stage_of(trainer),
        learning_rate=run.train.learning_rate,
        resumed_from_steps=resumed_steps(folder.experiment.ledger, folder.id),
    )
    write_json(folder.training, {"train": train_part.model_dump(), "model": model_part.model_dump()})


def training_rows(tokens: TokenSet, *, packing: bool, max_length: int) -> Dataset:
    """The train split as the trainer takes it: as it is, or several rows per sequence, kept apart by positions.

    Packing is best-fit decreasing over whole rows (arXiv 2404.10830); no row is longer than `max_length`, so none is
    cut. TRL's `wrapped` strategy would let rows attend across their borders and is never used.
    """
    rows = Dataset(tokens.rows("train").table)
    return pack_dataset(rows, max_length, "bfd") if packing else rows


def zero_stage_of(trainer: SFTTrainer) -> int:
    """The ZeRO stage of the live engine; 0 when no DeepSpeed engine drives the training."""
    engine = trainer.model_wrapped
    stage = getattr(engine, "zero_optimization_stage", None)
    return int(stage()) if callable(stage) else 0


def _trainable_model(run: Run, device: torch.device) -> PreTrainedModel:
    dtype = dtype_of(run.model, device)
    model = load_model(run.model, device=device, dtype=dtype, quantization=quantization_config(run.method, dtype))
    choose_trainable(model, run.method)
    return model


def _save(
    trainer: SFTTrainer, run: Run, folder: RunFolder, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> None:
    """Write `model/` whole. Trained weights go back to the precision in which the arms are compared."""
    with whole_folder(folder.model) as aside:
        if run.method.kind not in ADAPTER_KINDS:
            trainer.model.to(dtype_of(run.model, device))
        trainer.model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        if run.method.kind in ADAPTER_KINDS:
            check_saved_adapter(aside)


def _announce(resume: Resume, batches: BatchPlan) -> None:
    for reason in resume.skipped:
        log.warning("passing over checkpoint %s", reason)
    if resume.folder:
        log.info("going on from %s", resume.folder.name)
    log.info("%s", batches)
