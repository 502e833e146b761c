"""The training stage: from tokens to `model/`, through TRL's SFTTrainer."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer, pack_dataset

from lora_dist.config.experiment import Run
from lora_dist.data.tokens import TokenSet
from lora_dist.errors import raise_together
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
from lora_dist.training.arguments import precision_problems, sft_config
from lora_dist.training.checkpoints import Resume, SealCheckpoints, filling, find_resume, write_errors
from lora_dist.training.metrics import StepMetrics, cut_back, figures_of
from lora_dist.world import World

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


class _Trainer(SFTTrainer):
    """SFTTrainer that remembers how many tokens the loss of the current optimizer step is over."""

    scored_tokens_of_step = 0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # TRL's loss is over all tokens of the step. transformers counts them only for models whose forward takes
        # loss settings, and would weigh micro-batches equally, whatever their size, for one that does not.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.scored_tokens_of_step = num_items_in_batch
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with filling(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no README beside the checkpoints: nobody publishes those."""


def train_run(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    progress: Progress,
) -> None:
    """Train `run`, or go on from its newest valid checkpoint, and leave `plan.json`, `model/` and `training.json`.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
        Refused: the device does not train in the precision that was asked for.
        ConfigError: the checkpoint to go on from was saved by another number of ranks.
        StorageError: the disk is full.
    """
    device = device_of(world)
    raise_together(precision_problems(run, device))
    batches = plan_batches(run.train, world.size)
    resume = _take_up(folder, world, batches)

    progress(resume.step, 0, "loading the model")
    rows = training_rows(tokens, packing=run.data.packing, max_length=tokens.facts.max_length)
    steps = plan_steps(run.train, len(rows))
    write_json(folder.plan, batches.document() | steps.document())
    config = sft_config(
        run, batches, steps, folder=folder.checkpoints, device=device, max_length=tokens.facts.max_length
    )
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.log.parent / "tensorboard")  # where transformers looks
    trainer = make_trainer(run, config, rows, tokenizer, device)
    _add_callbacks(trainer, run, folder, world, device, progress)
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
    disable_progress_bars()  # progress is shown in one place
    rows = Dataset(tokens.rows("train").table)
    return pack_dataset(rows, max_length, "bfd") if packing else rows


def make_trainer(
    run: Run, config: SFTConfig, rows: Dataset, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> SFTTrainer:
    """The trainer over the pretrained model, with what the run's method trains unfrozen or added.

    Raises:
        ModelError: the model cannot be opened.
    """
    dtype = dtype_of(run.model, device)
    model = load_model(run.model, device=device, dtype=dtype, quantization=quantization_config(run.method, dtype))
    choose_trainable(model, run.method)
    adapted = run.method.kind in ADAPTER_KINDS
    trainer = _Trainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(run.method) if adapted else None,
    )
    hold_in_float32(trainer.model)
    return trainer


def zero_stage_of(trainer: SFTTrainer) -> int:
    """The ZeRO stage of the live engine; 0 when no DeepSpeed engine drives the training."""
    engine = trainer.model_wrapped
    stage = getattr(engine, "zero_optimization_stage", None)
    return int(stage()) if callable(stage) else 0


def _take_up(folder: RunFolder, world: World, batches: BatchPlan) -> Resume:
    """Where the run continues; what comes after that step is cut from its metrics."""
    resume = find_resume(make_folder(folder.checkpoints), run_id=folder.id, world_size=world.size)
    for reason in resume.skipped:
        log.warning("passing over checkpoint %s", reason)
    if resume.folder:
        log.info("going on from %s", resume.folder.name)
        write_event(folder.experiment.ledger, folder.id, RESUMED, step=resume.step)
    log.info("%s", batches)
    cut_back(folder.metrics, resume.step)
    return resume


def _add_callbacks(
    trainer: _Trainer, run: Run, folder: RunFolder, world: World, device: torch.device, progress: Progress
) -> None:
    trainer.remove_callback(PrinterCallback)
    keep = run.train.keep_checkpoints
    trainer.add_callback(
        SealCheckpoints(folder.checkpoints, folder.metrics, run_id=folder.id, world_size=world.size, keep=keep)
    )
    trainer.add_callback(
        StepMetrics(
            folder.metrics,
            device,
            run.train.learning_rate,
            scored_tokens=lambda: int(trainer.scored_tokens_of_step),
            step_was_skipped=lambda: trainer.accelerator.optimizer_step_was_skipped,
            progress=progress,
        )
    )


def _save(
    trainer: SFTTrainer, run: Run, folder: RunFolder, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> None:
    """Write `model/` whole. Trained weights go back to the precision in which the arms are compared."""
    with write_errors(folder.model), whole_folder(folder.model) as aside:
        if run.method.kind not in ADAPTER_KINDS:
            trainer.model.to(dtype_of(run.model, device))
        trainer.model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        if run.method.kind in ADAPTER_KINDS:
            check_saved_adapter(aside)
