"""Greedy generation of one batch: padding, room in the context, where it ends, and nothing of a model's own taste."""

# Dims: N rows, B rows of a batch, T tokens of the padded prompts, G new tokens.

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from lora_dist.models.device import synchronize
from lora_dist.models.loading import context_length
from lora_dist.models.prefix import virtual_tokens
from lora_dist.models.structure import causal_lm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WARM_UP_TOKENS = 2
"""The first pass over a prompt and one step with the cache: what is generated before the clock is looked at."""


def room_after(length: int, model: nn.Module, most: int) -> int:
    """How many tokens may follow a prompt of `length` tokens, at most `most`; 0 or less where it fills the context."""
    context = context_length(causal_lm(model))
    if context is None:  # recurrent models, ALiBi
        return most
    return min(most, context - virtual_tokens(model) - length)


def batches(lengths_N: Sequence[int], room_N: Sequence[int], batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Row numbers of each batch, longest prompt first, and how many tokens it may generate.

    A batch holds prompts with equal room only: one near the end of the context would cut the others short.
    """
    order = sorted(range(len(lengths_N)), key=lambda n: (room_N[n], -lengths_N[n]))
    for room, group in groupby(order, key=lambda n: room_N[n]):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size], room


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids and attention mask [B, T]; the padding is masked, so any id will do."""
    longest = max(map(len, prompts))
    ids_BT = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for b, ids in enumerate(prompts):
        ids_BT[b, longest - len(ids) :] = torch.tensor(ids)
        mask_BT[b, longest - len(ids) :] = 1
    return ids_BT, mask_BT


def generate(
    model: nn.Module, ids_BT: Tensor, mask_BT: Tensor, room: int, eos_ids: list[int], **more: Any
) -> tuple[Tensor, float]:
    """New tokens [B, G], padded after EOS, and the seconds they took.

    Args:
        more: handed to the model's `generate`.
    """
    greedy = GenerationConfig(
        do_sample=False, num_beams=1, use_cache=True, max_new_tokens=room, eos_token_id=eos_ids or None, pad_token_id=0
    )
    synchronize(ids_BT.device)
    start = time.perf_counter()
    all_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=greedy, **more)
    synchronize(ids_BT.device)
    return all_BT[:, ids_BT.shape[1] :], time.perf_counter() - start


@contextmanager
def plain_generation(model: nn.Module) -> Iterator[None]:
    """The model's own generation settings (temperature, repetition penalty, ...) are set aside inside the block.

    `generate` fills in from them whatever a GenerationConfig leaves open (transformers 5.23), and PEFT copies those
    of its wrapper to the model.
    """
    holders = [model] if causal_lm(model) is model else [model, causal_lm(model)]
    before = [vars(holder).get("generation_config") for holder in holders]
    for holder, own in zip(holders, before, strict=True):
        if own is not None:
            holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, own in zip(holders, before, strict=True):
            if own is not None:
                holder.generation_config = own


def eos_ids_of(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where generation stops: the model's ids (chat models have several) and the tokenizer's."""
    own = getattr(getattr(causal_lm(model), "generation_config", None), "eos_token_id", None)
    ids = [own] if isinstance(own, int) else list(own or [])
    return sorted({*ids, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})


def up_to_eos(new_G: list[int], eos_ids: list[int]) -> list[int]:
    """What was generated: up to the first EOS, which counts; what follows it is padding."""
    ends = [position for position, token in enumerate(new_G) if token in eos_ids]
    return new_G[: ends[0] + 1] if ends else new_G
