"""What each method kind does to a model: what it trains, in which precision, and what its 4-bit base really holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from lora_dist.config.experiment import Run
from lora_dist.config.sections import LORA_KINDS, MethodSection
from lora_dist.errors import ModelError, Problem
from lora_dist.models.adapters import adapter_problems
from lora_dist.models.device import dtype_of
from lora_dist.models.structure import causal_lm, decoder_blocks, final_norm, head_names, is_classifier
from lora_dist.store.record import ModelPart, Quantization


def method_problems(model: PreTrainedModel, method: MethodSection) -> list[Problem]:
    """What of `method` does not fit the structure of `model` (which may be on the meta device)."""
    problems = list(adapter_problems(model, method))
    if method.kind in LORA_KINDS and method.preserve_sparsity and method.dora:
        fix = "set method.dora or method.preserve_sparsity to false"
        problems.append(Problem("method.dora", "does not go with keeping the zeros of a pruned base", fix))
    if method.kind == "partial":
        try:
            _, blocks = decoder_blocks(model)
        except ModelError as error:
            return [*problems, *error.problems]
        if method.top_blocks > len(blocks):
            problems.append(
                Problem(
                    "method.top_blocks",
                    f"{method.top_blocks} blocks are to be trained, and this model has {len(blocks)}",
                    f"use at most {len(blocks)}",
                )
            )
        if not (method.top_blocks or method.train_norm or method.train_head):
            problems.append(
                Problem("method.top_blocks", "partial would train nothing", "train some blocks, the norm or the head")
            )
        if (
            method.train_norm and final_norm(model) is None and not is_classifier(model)
        ):  # an encoder's is in its blocks
            problems.append(
                Problem("method.train_norm", "no final norm was found in this model", "set method.train_norm=false")
            )
    return problems


def quantization_config(method: MethodSection, compute_dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """4-bit NF4 for `qlora`, None for every other kind."""
    if method.kind != "qlora":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=method.double_quantization,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def choose_trainable(model: PreTrainedModel, method: MethodSection) -> None:
    """Freeze what `method` does not train (under an adapter: the whole base)."""
    model.requires_grad_(method.kind == "full")
    if method.kind == "partial":
        _, blocks = decoder_blocks(model)
        chosen: list[nn.Module | None] = list(blocks[len(blocks) - method.top_blocks :])
        chosen.append(final_norm(model) if method.train_norm else None)
        if method.train_head:
            chosen += [model.get_submodule(name) for name in head_names(model)]
            # Between an encoder's last block and its head: that of a language model is never pooled.
            chosen.append(getattr(model.base_model, "pooler", None))
        for module in chosen:
            if module is not None:
                module.requires_grad_(True)


def hold_in_float32(model: nn.Module) -> None:
    """Hold what is trained in float32, whatever the precision of the rest.

    bfloat16 has 8 bits of mantissa: an update below 1/256 of a weight is lost, which is most of them at the usual
    rates. TRL (1.16) makes the adapters of a 4-bit base bfloat16, which would also be a second difference between lora
    and qlora.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


@dataclass(frozen=True)
class ParameterCount:
    """Weights of a model; 4-bit ones are counted unpacked."""

    total: int
    trainable: int


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the weights once each: tied ones are one, packed or shared out ones are what they are together."""
    total = trainable = 0
    for weight in model.parameters():
        size = _unpacked_size(weight)
        total += size
        trainable += size if weight.requires_grad else 0
    return ParameterCount(total, trainable)


def quantization_of(model: nn.Module) -> Quantization | None:
    """The 4-bit linears that `model` really holds, read off the live modules; None when there is none."""
    from bitsandbytes.nn import Linear4bit  # importing it opens the CUDA device

    linears = [module for module in model.modules() if isinstance(module, Linear4bit)]
    linears = [linear for linear in linears if getattr(linear.weight, "quant_state", None) is not None]
    if not linears:
        return None
    first = linears[0]
    return Quantization(
        kind=first.weight.quant_state.quant_type,
        double_quantization=bool(first.weight.quant_state.nested),
        linears_4bit=len(linears),
        parameters_4bit=sum(_unpacked_size(linear.weight) for linear in linears),
        bytes_4bit=sum(linear.weight.numel() * linear.weight.element_size() for linear in linears),
        storage_dtype=str(first.weight.dtype).removeprefix("torch."),
        compute_dtype=str(first.compute_dtype).removeprefix("torch."),
    )


def trainable_dtype(model: nn.Module) -> str | None:
    """The dtype of what is trained, or None when nothing is; several are joined by a comma."""
    found = sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters() if weight.requires_grad})
    return ", ".join(found) or None


def describe_model(run: Run, model: PreTrainedModel) -> ModelPart:
    """The model part of a record, read off the live model (without frozen weights, `dtype_of` is what it will be)."""
    count = count_parameters(model)
    base = causal_lm(model)
    frozen = [weight.dtype for weight in base.parameters() if not weight.requires_grad and weight.is_floating_point()]
    return ModelPart(
        path=run.model.path,
        revision=run.model.revision,
        parameters_total=count.total,
        parameters_trainable=count.trainable,
        dtype=str(frozen[0] if frozen else dtype_of(run.model, base.device)).removeprefix("torch."),
        trainable_dtype=trainable_dtype(model),
        attention=base.config._attn_implementation,
        quantization=quantization_of(model),
    )


def _unpacked_size(weight: Any) -> int:
    state = getattr(weight, "quant_state", None)
    if state is not None:
        return math.prod(state.shape)
    return getattr(weight, "ds_numel", None) or weight.numel()  # ZeRO-3 leaves a rank an empty tensor and its share
