"""From a run and its plan to TRL's SFTConfig: the one place where our settings meet theirs."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers.integrations import get_available_reporting_integrations
from trl import SFTConfig

from lora_dist.config.experiment import Run
from lora_dist.config.problems import nearest
from lora_dist.errors import Problem
from lora_dist.planning.batches import BatchPlan, StepPlan

# Set from our own sections, so that each setting has one home; the key is what to use instead.
_OWNED = {
    "output_dir": "output_dir",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "learning_rate": "train.learning_rate",
    "per_device_train_batch_size": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.global_batch_size",
    "lr_scheduler_type": "train.scheduler",
    "warmup_steps": "train.warmup_fraction",
    "warmup_ratio": "train.warmup_fraction",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_gradient_norm",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "save_strategy": "train.checkpoint_steps",
    "save_steps": "train.checkpoint_steps",
    "save_total_limit": "train.keep_checkpoints",
    "report_to": "train.report_to",
    "seed": "seeds",
    "data_seed": "seeds",
    "max_length": "data.max_length",
    "packing": "data.packing",
    "packing_strategy": "data.packing",
    "padding_free": "data.packing",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_cpu": "launch",
    "logging_steps": "nothing: every step is logged",
    "logging_strategy": "nothing: every step is logged",
    "logging_nan_inf_filter": "nothing: a NaN stops the run",
    "dataset_kwargs": "data",
    "model_init_kwargs": "model",
    "trust_remote_code": "model.trust_remote_code",
    "eval_strategy": "evaluate",
    "save_only_model": "nothing: a checkpoint without its optimizer cannot resume",
    "resume_from_checkpoint": "nothing: runs resume by themselves",
    "disable_tqdm": "nothing: progress is drawn in one place",
}


def extra_problems(run: Run) -> Iterator[Problem]:
    """What of `train.extra` and `train.report_to` TRL and transformers would not understand."""
    fields = {field.name for field in dataclasses.fields(SFTConfig) if field.init}
    for name in run.train.extra:
        key = f"train.extra.{name}"
        if name in _OWNED:
            yield Problem(key, "is set elsewhere by lora_dist", f"use {_OWNED[name]}")
        elif name not in fields:
            yield Problem(key, "is not a field of TRL's SFTConfig", nearest(name, sorted(fields - set(_OWNED))))
    available = get_available_reporting_integrations()
    for tracker in run.train.report_to:
        if tracker not in available:
            fix = f"pip install {tracker}" if importlib.util.find_spec(tracker) is None else "check its installation"
            yield Problem("train.report_to", f"the tracker '{tracker}' is not available here", fix)
    try:  # its values are TRL's to judge
        SFTConfig(output_dir="unused", report_to="none", bf16=False, use_cpu=True, **_theirs(run, fields))
    except (ValueError, TypeError, ImportError) as error:
        yield Problem("train.extra", " ".join(str(error).split())[:300], "correct it")


def _theirs(run: Run, fields: set[str]) -> dict[str, Any]:
    return {name: value for name, value in run.train.extra.items() if name in fields and name not in _OWNED}


def sft_config(
    run: Run, batches: BatchPlan, steps: StepPlan, *, folder: Path, device: torch.device, max_length: int
) -> SFTConfig:
    """The trainer's arguments. Rows come tokenised, so TRL prepares no dataset of its own.

    Args:
        folder: where checkpoints go.
        max_length: tokens per packed sequence, as the tokens were made.
    """
    train = run.train
    mixed = device.type == "cuda" and run.model.dtype in ("auto", "bfloat16")
    values: dict[str, Any] = {
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
        "bf16": mixed,
        "fp16": device.type == "cuda" and run.model.dtype == "float16",
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda",
        "seed": run.seed,
        "data_seed": run.seed,
        "max_length": max_length,
        "packing": run.data.packing,
        "packing_strategy": "bfd",
        "dataset_kwargs": {"skip_prepare_dataset": True},
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
    }
    return SFTConfig(**(values | train.extra))


def warmup_steps(fraction: float, steps: int) -> int:
    """Whole steps of warm-up: transformers reads a number below 1 as a fraction, so it is resolved here once."""
    return min(round(fraction * steps), steps - 1)
