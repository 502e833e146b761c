"""Adapters through peft: what they may target, how they are made, saved soundly and put back on their base."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from lora_dist.config.sections import LORA_KINDS, MethodSection
from lora_dist.errors import LoraDistError, ModelError, Problem
from lora_dist.models.adapter_files import CONFIG, PEFT_TYPE, PREFIX_TENSOR, WEIGHTS
from lora_dist.models.adapter_folder import config_in, names_kept_zeros
from lora_dist.models.ia3 import ia3_config, ia3_problems
from lora_dist.models.prefix import prefix_config, prefix_problems
from lora_dist.models.sparse_lora import keep_zeros
from lora_dist.models.structure import head_names, is_classifier, is_in, linear_names
from lora_dist.store.atomic import write_json

_TARGETING = (*LORA_KINDS, "ia3")
_PEFTS_OWN_HEADS = ("classifier", "score")  # peft (0.21) adds these to modules_to_save of every classifier by itself


def adapter_problems(model: PreTrainedModel, method: MethodSection) -> Iterator[Problem]:
    """What of `method`'s adapter does not go with this model, which is on the meta device."""
    if method.kind in _TARGETING:
        yield from target_problems(model, method)
    if method.kind == "ia3":
        yield from ia3_problems(model, method)
    if method.kind == "prefix":
        yield from prefix_problems(model, method)


def target_problems(model: PreTrainedModel, method: MethodSection) -> Iterator[Problem]:
    """What is wrong with `method.targets` for this model, each name by itself."""
    if method.targets == "all-linear":
        return
    names = linear_names(model)
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    heads = [name for name, _ in model.named_modules() if any(is_in(name, head) for head in head_names(model))]
    why = "is trained whole" if is_classifier(model) else "takes no adapter (TRL computes the loss from its weight)"
    for target in method.targets:
        if any(name == target or name.endswith(f".{target}") for name in names):
            continue
        if any(name == target or name.endswith(f".{target}") for name in heads):
            problem = f"'{target}' is the output head, which {why}"
        else:
            problem = f"no linear of this model is called '{target}'"
        yield Problem("method.targets", problem, f"use some of {', '.join(leaves)}, or all-linear")


def adapter_config(model: PreTrainedModel, method: MethodSection) -> PeftConfig | None:
    """peft's config of what `method` puts on `model`; None for a method that puts nothing on it.

    Raises:
        ModelError: see `ia3_config`.
    """
    if method.kind in LORA_KINDS:
        return lora_config(method)
    if method.kind == "prefix":
        return prefix_config(method)
    return ia3_config(model, method) if method.kind == "ia3" else None


def lora_config(method: MethodSection, heads: Sequence[str] = ()) -> LoraConfig:
    """peft's config for a `lora` or `qlora` method.

    Args:
        heads: of a classifier, the modules that are trained whole and saved with the adapter.
    """
    config = LoraConfig(
        task_type="SEQ_CLS" if heads else "CAUSAL_LM",
        modules_to_save=[head for head in heads if head not in _PEFTS_OWN_HEADS] or None,
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=method.targets,
        use_dora=method.dora,
        use_rslora=method.rslora,
        bias="none",
    )
    return keep_zeros(config) if method.preserve_sparsity else config


def name_kept_zeros(folder: Path) -> None:
    """Make a saved adapter that keeps zeros refuse to be opened as a plain LoRA, which it is not."""
    path = folder / CONFIG
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"peft_type": PEFT_TYPE})


def check_saved_adapter(folder: Path) -> None:
    """Make sure that an adapter on the disk is the one that was trained.

    ZeRO-3 has saved empty tensors (transformers before 5.0), and an adapter whose `lora_B` is all zero, or whose
    scales are all one, is the untrained one: both load without a word and score like the base.

    Raises:
        LoraDistError: a tensor is empty or not finite, or every `lora_B` is zero, or every scale one.
    """
    updates = []
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            if tensor.numel() == 0:
                raise LoraDistError(f"the saved adapter is empty at {name}: {folder}")
            if not torch.isfinite(tensor).all():
                raise LoraDistError(f"the saved adapter is not finite at {name}: {folder}")
            updates += [bool((tensor != at_first).any()) for part, at_first in _UNTRAINED.items() if part in name]
            updates.append(name == PREFIX_TENSOR)  # which tells nothing of how it began
    if not any(updates):
        raise LoraDistError(f"the saved adapter changes nothing, its lora_B (or scales) are as they began: {folder}")


_UNTRAINED = {"lora_B": 0.0, "ia3_l": 1.0}
"""Tensors of an adapter that changes nothing, by a part of their names."""


def put_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """`base` with the adapter in `folder` on it, for inference.

    Raises:
        ModelError: the folder does not hold an adapter that fits this base.
    """
    try:
        config = config_in(folder) if names_kept_zeros(folder) else None
        return PeftModel.from_pretrained(base, str(folder), is_trainable=False, config=config)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(
            key=str(folder),
            problem=f"is no adapter that fits this model: {' '.join(str(error).split())[:300]}",
            fix="give the folder of a complete adapter that was trained on this model",
        ) from error
