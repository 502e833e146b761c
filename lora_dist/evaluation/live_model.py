"""What measuring needs from a live model: its plain causal LM, its devices, and evaluation mode that is given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lora_dist.models.structure import causal_lm


def input_device(model: nn.Module) -> torch.device:
    """Where token ids go: the device of the input embeddings (a model may be spread over several devices)."""
    return causal_lm(model).get_input_embeddings().weight.device


def embedding_rows(model: nn.Module) -> int:
    """How many token ids the model can read."""
    return int(causal_lm(model).get_input_embeddings().weight.shape[0])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own training flag is given back, also after an error.

    bitsandbytes' 4-bit linears stay in training mode, in which they compute the same and are left alone. In evaluation
    mode on a CPU with AVX512-BF16 they repack their weights in place, for a kernel that rounds to bfloat16 and has no
    backward: training afterwards gets zero gradients, merging gives noise, and layers that are no multiple of 32 x 64
    fail (measured, bitsandbytes 0.50.2).

    This is `no_grad` and not `inference_mode`: buffers that a model makes lazily (dynamic RoPE, bitsandbytes) would
    stay inference tensors, and training that model afterwards would fail on them.
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # only bitsandbytes' Linear4bit has it
            module.training = True
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training
