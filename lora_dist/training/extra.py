"""`train.extra`: fields of TRL's SFTConfig that are handed through, and those that have a home of their own."""

from __future__ import annotations

import dataclasses
import importlib.util
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from trl import SFTConfig

from lora_dist.config.classification import is_classification
from lora_dist.config.experiment import Run
from lora_dist.config.problems import nearest
from lora_dist.errors import Problem

# Set from our own sections, so that each setting has one home; the value says which.
_HOMES: dict[str, tuple[str, ...]] = {
    "train.epochs": ("num_train_epochs",),
    "train.max_steps": ("max_steps",),
    "train.learning_rate": ("learning_rate",),
    "train.micro_batch_size": ("per_device_train_batch_size", "auto_find_batch_size"),
    "train.global_batch_size": ("gradient_accumulation_steps",),
    "train.scheduler": ("lr_scheduler_type",),
    "train.warmup_fraction": ("warmup_steps", "warmup_ratio"),
    "train.weight_decay": ("weight_decay",),
    "train.max_gradient_norm": ("max_grad_norm",),
    "train.gradient_checkpointing": ("gradient_checkpointing", "activation_checkpointing"),
    "train.checkpoint_steps": ("save_strategy", "save_steps"),
    "train.keep_checkpoints": ("save_total_limit",),
    "train.report_to": ("report_to",),
    "output_dir": ("output_dir",),
    "seeds": ("seed", "data_seed"),
    "data.max_length": ("max_length", "truncation_mode"),
    "data.packing": ("packing", "packing_strategy", "padding_free", "eval_packing"),
    "data": (
        "dataset_kwargs", "dataset_text_field", "dataset_num_proc", "shuffle_dataset", "remove_unused_columns",
        "completion_only_loss", "assistant_only_loss", "chat_template_path", "eos_token", "pad_token",
    ),
    "model": ("model_init_kwargs",),
    "model.dtype": ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"),
    "model.trust_remote_code": ("trust_remote_code",),
    "train.validation_steps": ("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "do_eval"),
    "train.early_stopping_patience": ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    "launch": ("use_cpu", "deepspeed", "fsdp", "fsdp_config", "parallelism_config", "accelerator_config"),
}  # fmt: skip
_REASONS: dict[str, tuple[str, ...]] = {
    "nothing: every step is logged": ("logging_steps", "logging_strategy", "logging_first_step"),
    "nothing: a NaN stops the run": ("logging_nan_inf_filter",),
    "nothing: every train row is used": ("dataloader_drop_last",),
    "nothing: runs resume by themselves": ("resume_from_checkpoint", "enable_jit_checkpoint"),
    "nothing: a run that resumes must see what it would have seen": (
        "ignore_data_skip", "save_only_model", "train_sampling_strategy", "restore_callback_states_from_checkpoint",
    ),
    "nothing: the loss is over all tokens of a step": ("average_tokens_across_devices",),
    "nothing: progress is drawn in one place": ("disable_tqdm",),
    "nothing: publish the finished model/ with `hf upload`": ("push_to_hub",),
}  # fmt: skip
_OWNED = {
    field: instead for table in (_HOMES, _REASONS) for instead, fields in table.items() for field in fields
}  # fmt: skip


_CALLED = {SFTConfig: "TRL's SFTConfig", TrainingArguments: "transformers' TrainingArguments"}


def extra_problems(run: Run) -> Iterator[Problem]:
    """What of `train.extra` and `train.report_to` TRL and transformers would not understand."""
    config = _config_of(run)
    fields = _field_types(config)
    understood = True
    for name, value in run.train.extra.items():
        key = f"train.extra.{name}"
        if name in _OWNED:
            yield Problem(key, "is set elsewhere by lora_dist", f"use {_OWNED[name]}")
        elif name not in fields:
            yield Problem(key, f"is not a field of {_CALLED[config]}", nearest(name, sorted(fields.keys() - _OWNED)))
        else:
            try:
                fields[name].validate_python(value)
            except ValidationError as error:
                understood = False
                yield Problem(key, f"{value!r}: {error.errors()[0]['msg']}", "correct it")
    available = get_available_reporting_integrations()
    for tracker in run.train.report_to:
        if tracker not in available:
            fix = f"pip install {tracker}" if importlib.util.find_spec(tracker) is None else "check its installation"
            yield Problem("train.report_to", f"the tracker '{tracker}' is not available here", fix)
    if understood:
        yield from _together(run)


def _together(run: Run) -> Iterator[Problem]:
    """What TRL and transformers say about the values, which are their own to judge."""
    try:
        _config_of(run)(output_dir="unused", report_to="none", bf16=False, use_cpu=True, **extra_values(run))
    except (ValueError, TypeError, ImportError) as error:
        yield Problem("train.extra", " ".join(str(error).split())[:300], "correct it")


def extra_values(run: Run) -> dict[str, Any]:
    """The fields that are handed through, as the types that TRL declares (SFTConfig itself converts nothing)."""
    fields = _field_types(_config_of(run))
    return {
        name: fields[name].validate_python(value)
        for name, value in run.train.extra.items()
        if name in fields and name not in _OWNED
    }


def _config_of(run: Run) -> type[TrainingArguments]:
    return TrainingArguments if is_classification(run) else SFTConfig


@cache
def _field_types(config: type[TrainingArguments]) -> dict[str, TypeAdapter[Any]]:
    hints = typing.get_type_hints(config)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(config) if field.init}
