"""Samples: how a model continues the same prompts, greedily, and how fast."""

# Dims: N prompts, B prompts of a batch, T tokens of the padded prompts, G new tokens.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from lora_dist.data.tokens import NOT_SCORED
from lora_dist.errors import DataError
from lora_dist.evaluation.live_model import evaluating, input_device
from lora_dist.evaluation.perplexity import Row
from lora_dist.evaluation.shares import deal
from lora_dist.models.device import synchronize
from lora_dist.models.structure import causal_lm
from lora_dist.store.record import Generation
from lora_dist.team import Team

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_TEXT_PROMPT = 64
"""Tokens of running text that a causal_lm prompt has at most: enough for a topic, short enough to read."""

_WARM_UP_TOKENS = 2  # the first pass over a prompt and one step with the cache


@dataclass(frozen=True)
class Prompt:
    """What a model is given, and what the data has in that place."""

    row: int
    input_ids: list[int]
    reference_ids: list[int]


@dataclass(frozen=True)
class Sample:
    """One continuation, as text without special tokens."""

    row: int
    prompt: str
    reference: str
    prediction: str
    new_tokens: int
    """Tokens that were generated, EOS included, padding not."""


def prompts_of(rows: Sequence[Row], count: int) -> list[Prompt]:
    """The prompts of the first `count` rows (input_ids, labels; -100 is not scored).

    Instruction data: the prompt is everything before the last run of scored labels (the last answer), the reference
    that run. Running text, where everything after the first token is scored: the prompt is the first half of the row,
    at most `LONGEST_TEXT_PROMPT` tokens, the reference as many tokens after it.

    Raises:
        DataError: a row is too short to have both, or nothing in it is scored.
    """
    return [_prompt_of(number, list(ids), list(labels)) for number, (ids, labels) in enumerate(rows[:count])]


def _prompt_of(row: int, ids: list[int], labels: list[int]) -> Prompt:
    end = len(labels)
    while end > 0 and labels[end - 1] == NOT_SCORED:
        end -= 1
    start = end
    while start > 0 and labels[start - 1] != NOT_SCORED:
        start -= 1
    if start <= 1:  # running text, whether or not its first token (BOS) has a label
        start = min(end // 2, LONGEST_TEXT_PROMPT)
        end = 2 * start
    if not 0 < start < end:
        raise DataError(
            key=f"data, row {row}",
            problem="it is too short to be a prompt and its continuation",
            fix="remove the example, or set evaluate.samples to 0",
        )
    return Prompt(row, ids[:start], ids[start:end])


def generate_samples(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    batch_size: int,
    team: Team | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Sample], Generation]:
    """Continue each prompt greedily up to EOS, `max_new_tokens` or the model's context; samples in the given order.

    Nothing of the model's own generation settings is used but its EOS ids: no sampling, no penalties. Prompts are
    padded on the left, and the texts are those of one prompt at a time up to the rounding of the model's dtype.
    Seconds are wall-clock, device synchronised, without a warm-up of two tokens and without decoding;
    `progress(done, total)` hears of prompts. Without prompts all numbers are 0. The batches are dealt to the ranks of
    `team`, each of which gets all samples; seconds are the slowest rank's.

    Raises:
        DataError: a prompt fills the model's context.
    """
    if max_new_tokens < 1 or batch_size < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens} and batch_size {batch_size}; both have to be at least 1")
    room_N = [_room(prompt, model, max_new_tokens) for prompt in prompts]
    eos_ids = _eos_ids(model, tokenizer)
    new_ids_N: dict[int, list[int]] = {}
    seconds = 0.0
    done = 0
    with evaluating(model), _plain_generation(model):
        for mine, turn in deal(list(_batches(prompts, room_N, batch_size)), team):
            for batch, room in mine:
                ids_BT, mask_BT = (
                    tensor.to(input_device(model)) for tensor in _left_padded([prompts[n] for n in batch])
                )
                if not new_ids_N:
                    _generate(model, ids_BT, mask_BT, min(room, _WARM_UP_TOKENS), eos_ids)
                new_BG, took = _generate(model, ids_BT, mask_BT, room, eos_ids)
                seconds += took
                new_ids_N |= {n: _up_to_eos(new_G, eos_ids) for n, new_G in zip(batch, new_BG.tolist(), strict=True)}
            done += sum(len(batch) for batch, _ in turn)
            if progress is not None:
                progress(done, len(prompts))
    if team is not None:
        seconds = team.highest(seconds)
        new_ids_N = {n: ids for share in team.gather(new_ids_N) for n, ids in share.items()}
    samples = [_sample(prompt, new_ids_N[n], tokenizer) for n, prompt in enumerate(prompts)]
    new_tokens = sum(sample.new_tokens for sample in samples)
    return samples, Generation(
        prompts=len(prompts),
        new_tokens=new_tokens,
        seconds=seconds,
        tokens_per_second=new_tokens / seconds if seconds > 0 else 0.0,
    )


def _room(prompt: Prompt, model: nn.Module, max_new_tokens: int) -> int:
    """How many tokens may follow the prompt."""
    context = getattr(causal_lm(model).config.get_text_config(), "max_position_embeddings", None)
    if context is None:  # no bound in its configuration: recurrent models, ALiBi
        return max_new_tokens
    if len(prompt.input_ids) >= context:
        raise DataError(
            key=f"data, row {prompt.row}",
            problem=f"its prompt has {len(prompt.input_ids)} tokens and the model's context is {context}",
            fix="lower data.max_length, or set evaluate.samples to 0",
        )
    return min(max_new_tokens, context - len(prompt.input_ids))


def _batches(prompts: Sequence[Prompt], room_N: Sequence[int], batch_size: int) -> Iterator[tuple[list[int], int]]:
    """Prompt numbers of each batch, longest first, and how many tokens it may generate.

    A batch holds prompts with equal room only: one near the end of the context would cut the others short.
    """
    order = sorted(range(len(prompts)), key=lambda n: (room_N[n], -len(prompts[n].input_ids)))
    for room, group in groupby(order, key=lambda n: room_N[n]):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size], room


def _left_padded(prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """ids and attention mask [B, T]; the padding is masked, so any id will do."""
    longest = max(len(prompt.input_ids) for prompt in prompts)
    ids_BT = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for b, prompt in enumerate(prompts):
        ids_BT[b, longest - len(prompt.input_ids) :] = torch.tensor(prompt.input_ids)
        mask_BT[b, longest - len(prompt.input_ids) :] = 1
    return ids_BT, mask_BT


def _generate(model: nn.Module, ids_BT: Tensor, mask_BT: Tensor, room: int, eos_ids: list[int]) -> tuple[Tensor, float]:
    """New tokens [B, G], padded after EOS, and the seconds they took."""
    greedy = GenerationConfig(
        do_sample=False, num_beams=1, use_cache=True, max_new_tokens=room, eos_token_id=eos_ids or None, pad_token_id=0
    )
    synchronize(ids_BT.device)
    start = time.perf_counter()
    all_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT, generation_config=greedy)
    synchronize(ids_BT.device)
    return all_BT[:, ids_BT.shape[1] :], time.perf_counter() - start


@contextmanager
def _plain_generation(model: nn.Module) -> Iterator[None]:
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


def _eos_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where generation stops: the model's ids (chat models have several) and the tokenizer's."""
    own = getattr(getattr(causal_lm(model), "generation_config", None), "eos_token_id", None)
    ids = [own] if isinstance(own, int) else list(own or [])
    return sorted({*ids, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})


def _up_to_eos(new_G: list[int], eos_ids: list[int]) -> list[int]:
    """What was generated: up to the first EOS, which counts; what follows it is padding."""
    ends = [position for position, token in enumerate(new_G) if token in eos_ids]
    return new_G[: ends[0] + 1] if ends else new_G


def _sample(prompt: Prompt, new_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Sample:
    texts = (
        tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt.input_ids, prompt.reference_ids, new_ids)
    )
    return Sample(prompt.row, *texts, new_tokens=len(new_ids))
