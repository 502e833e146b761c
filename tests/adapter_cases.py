"""Adapters made in a moment: saved as training saves them, with an update that is not zero."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from pruning_cases import zero_half
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lora_dist.config.sections import ModelSection
from lora_dist.models.adapters import name_kept_zeros
from lora_dist.models.fingerprint import fingerprint_of
from lora_dist.models.provenance import Base, Provenance
from lora_dist.models.sparse_lora import keep_zeros

ALL = "all-linear"


def pruned_llama(folder: Path, vocabulary: int = 64) -> Path:
    """A tiny Llama without a tokenizer, half of whose linears' weights are zero (but not the head's)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    zero_half(model)
    model.save_pretrained(folder)
    return folder


def opened(base: Path):
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def save_adapter(
    folder: Path, base: Path, *, keeps: bool = False, seed: int = 0, size: float = 0.1, targets=ALL, **config
) -> Path:
    """An adapter of `base` with random A and B, as training leaves it in a run's `model/`."""
    torch.manual_seed(seed)
    made = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **config)
    model = get_peft_model(opened(base), keep_zeros(made) if keeps else made)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=size)
    model.save_pretrained(folder)
    if keeps:
        name_kept_zeros(folder)
    return folder


def tell_origin(folder: Path, base: Path, label: str = "lora", *, keeps: bool = False, **told) -> Path:
    """Put the provenance of an adapter that we trained on `base` into its folder."""
    section = ModelSection(path=str(base))
    facts = {
        "base": Base(path=str(base), fingerprint=fingerprint_of(section)),
        "method": {"kind": "lora", "rank": 8, "alpha": 16.0, "targets": ALL, "preserve_sparsity": keeps},
        "task": "instruction", "data": "data/gsm8k", "run_id": "lora-0123abcd", "arm": "lora", "label": label,
        "seed": 0,
    }  # fmt: skip
    Provenance(**{**facts, **told}).write(folder)
    return folder
