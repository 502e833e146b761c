"""Few-shot prompts: solved examples of the train split before each prompt, the same for every arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lora_dist.evaluation.generate import Prompt
from lora_dist.evaluation.perplexity import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BETWEEN = "\n\n"
"""Stands between two examples, where an example ends with the tokenizer's EOS."""


def with_shots(prompts: Sequence[Prompt], shots: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The prompts after the train rows `shots`, whole and in their order.

    A BOS stands at the very beginning alone. An EOS after an example gives way to an empty line: a base model would
    otherwise take what follows for another document. Chat templates end their turns with tokens of their own, which
    stay.
    """
    if not shots:
        return list(prompts)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    between = tokenizer(BETWEEN, add_special_tokens=False)["input_ids"]
    examples: list[int] = []
    for ids, _ in shots:
        example = _without_bos(np.asarray(ids).tolist(), bos)
        examples += [*example[:-1], *between] if example[-1:] == [eos] else example
    return [_after(prompt, examples, bos) for prompt in prompts]


def _after(prompt: Prompt, examples: list[int], bos: int | None) -> Prompt:
    asked = _without_bos(prompt.input_ids, bos)
    begins_with_bos = len(asked) < len(prompt.input_ids)
    return replace(prompt, input_ids=asked, examples_ids=(*([bos] if begins_with_bos else []), *examples))


def _without_bos(ids: list[int], bos: int | None) -> list[int]:
    return ids[1:] if bos is not None and ids[:1] == [bos] else list(ids)
