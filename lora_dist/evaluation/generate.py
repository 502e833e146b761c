"""Samples: how a model continues the same prompts, greedily, and how fast."""

# Dims: N prompts, B prompts of a batch, T tokens of the padded prompts, G new tokens.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from lora_dist.data.tokens import NOT_SCORED
from lora_dist.errors import DataError
from lora_dist.evaluation.greedy import (
    WARM_UP_TOKENS,
    batches,
    eos_ids_of,
    generate,
    left_padded,
    plain_generation,
    room_after,
    up_to_eos,
)
from lora_dist.evaluation.live_model import evaluating, input_device
from lora_dist.evaluation.perplexity import Row
from lora_dist.evaluation.shares import deal
from lora_dist.store.record import Generation
from lora_dist.team import Team

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_TEXT_PROMPT = 64
"""Tokens of running text that a causal_lm prompt has at most: enough for a topic, short enough to read."""


@dataclass(frozen=True)
class Prompt:
    """What a model is given, and what the data has in that place."""

    row: int
    input_ids: list[int]
    reference_ids: list[int]
    examples_ids: tuple[int, ...] = ()
    """Solved examples that the model is given before (few-shot)."""

    @property
    def given_ids(self) -> list[int]:
        """All that the model is given."""
        return [*self.examples_ids, *self.input_ids]


@dataclass(frozen=True)
class Sample:
    """One continuation, as text without special tokens."""

    row: int
    prompt: str
    reference: str
    prediction: str
    new_tokens: int
    """Tokens that were generated, EOS included, padding not."""
    finished: bool
    """Whether it ended by itself, and not because there was no room for more."""


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
    eos_ids = eos_ids_of(model, tokenizer)
    lengths_N = [len(prompt.given_ids) for prompt in prompts]
    new_ids_N: dict[int, list[int]] = {}
    seconds = 0.0
    done = 0
    with evaluating(model), plain_generation(model):
        for mine, turn in deal(list(batches(lengths_N, room_N, batch_size)), team):
            for batch, room in mine:
                ids_BT, mask_BT = (
                    tensor.to(input_device(model)) for tensor in left_padded([prompts[n].given_ids for n in batch])
                )
                if not new_ids_N:
                    generate(model, ids_BT, mask_BT, min(room, WARM_UP_TOKENS), eos_ids)
                new_BG, took = generate(model, ids_BT, mask_BT, room, eos_ids)
                seconds += took
                new_ids_N |= {n: up_to_eos(new_G, eos_ids) for n, new_G in zip(batch, new_BG.tolist(), strict=True)}
            done += sum(len(batch) for batch, _ in turn)
            if progress is not None:
                progress(done, len(prompts))
    if team is not None:
        seconds = team.highest(seconds)
        new_ids_N = {n: ids for share in team.gather(new_ids_N) for n, ids in share.items()}
    samples = [_sample(prompt, new_ids_N[n], tokenizer, eos_ids) for n, prompt in enumerate(prompts)]
    new_tokens = sum(sample.new_tokens for sample in samples)
    return samples, Generation(
        prompts=len(prompts),
        new_tokens=new_tokens,
        seconds=seconds,
        tokens_per_second=new_tokens / seconds if seconds > 0 else 0.0,
        unfinished=sum(not sample.finished for sample in samples),
        max_new_tokens=max_new_tokens,
    )


def _room(prompt: Prompt, model: nn.Module, max_new_tokens: int) -> int:
    """How many tokens may follow the prompt."""
    length = len(prompt.given_ids)
    room = room_after(length, model, max_new_tokens)
    if room < 1:
        few = "evaluate.shots" if prompt.examples_ids else "data.max_length"
        raise DataError(
            key=f"data, row {prompt.row}",
            problem=f"its prompt has {length} tokens and the model's context is {length + room}",
            fix=f"lower {few}, or generate nothing (evaluate.samples=0 evaluate.metrics=[])",
        )
    return room


def _sample(prompt: Prompt, new_ids: list[int], tokenizer: PreTrainedTokenizerBase, eos_ids: list[int]) -> Sample:
    texts = (
        tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt.input_ids, prompt.reference_ids, new_ids)
    )
    return Sample(prompt.row, *texts, new_tokens=len(new_ids), finished=bool(new_ids) and new_ids[-1] in eos_ids)
