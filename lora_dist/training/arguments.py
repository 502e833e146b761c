"""From a run and its plan to TRL's SFTConfig, or transformers' TrainingArguments: where our settings meet theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import TrainingArguments
from trl import SFTConfig

from lora_dist.config.experiment import Run
from lora_dist.errors import Problem
from lora_dist.models.device import dtype_of
from lora_dist.planning.batches import BatchPlan, StepPlan
from lora_dist.training.extra import extra_values

A = TypeVar("A", bound=TrainingArguments)


def precision_problems(run: Run, device: torch.device) -> Iterator[Problem]:
    """What cannot be trained on `device` in the precision that was asked for."""
    if run.trains and dtype_of(run.model, device) == torch.float16 and device.type == "cpu":
        yield Problem(
            "model.dtype",
            "float16 does not train on a CPU: its gradients underflow, and there is no loss scaling here",
            "use bfloat16 or float32 (or auto)",
        )


def sft_config(
    run: Run, batches: BatchPlan, steps: StepPlan, *, folder: Path, device: torch.device, max_length: int
) -> SFTConfig:
    """The trainer's arguments. Rows come tokenised, so TRL prepares no dataset of its own.

    Args:
        folder: where checkpoints go.
        max_length: tokens per packed sequence, as the tokens were made.
    """
    values = {
        "max_length": max_length,
        "packing": run.data.packing,
        "packing_strategy": "bfd",
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    config = SFTConfig(**(_common(run, batches, steps, folder, device) | values | extra_values(run)))
    return _on_one_gpu(config)


def class_config(
    run: Run, batches: BatchPlan, steps: StepPlan, *, folder: Path, device: torch.device
) -> TrainingArguments:
    """The arguments of a classifier's trainer, whose rows and collator are ours.

    Args:
        folder: where checkpoints go.
    """
    values = {"remove_unused_columns": False}
    return _on_one_gpu(TrainingArguments(**(_common(run, batches, steps, folder, device) | values | extra_values(run))))


def _common(run: Run, batches: BatchPlan, steps: StepPlan, folder: Path, device: torch.device) -> dict[str, Any]:
    """What both kinds of trainer are told.

    Half precision is mixed precision on every device: what is trained is float32, and autocast computes in the dtype
    of the frozen weights. Without it float32 adapters or blocks would meet half-precision activations.
    """
    train = run.train
    dtype = dtype_of(run.model, device)
    return {
        "output_dir": str(folder),
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "learning_rate": train.learning_rate,
        "per_device_train_batch_size": batches.micro_batch_size,
        "gradient_accumulation_steps": batches.accumulation,
        "lr_scheduler_type": train.scheduler,
        "warmup_steps": warmup_steps(train.warmup_fraction, steps.steps),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_gradient_norm,
        "gradient_checkpointing": train.gradient_checkpointing,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
        "seed": run.seed,
        "data_seed": run.seed,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "save_strategy": "steps",
        "save_steps": steps.checkpoint_steps,
        "save_total_limit": None,
        "report_to": list(train.report_to) or "none",
        "run_name": f"{folder.parent.parent.name}/{folder.parent.name}",
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,  # what a method trains takes part in every step
    }


def _on_one_gpu(config: A) -> A:
    """One rank on a machine with several GPUs uses its own: transformers would copy the model to all of them
    (nn.DataParallel)."""
    config._n_gpu = min(1, config.n_gpu)
    return config


def warmup_steps(fraction: float, steps: int) -> int:
    """Whole steps of warm-up: transformers reads a number below 1 as a fraction, so it is resolved here once."""
    return min(round(fraction * steps), steps - 1)
