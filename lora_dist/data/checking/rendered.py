"""Examples as the model sees them: the text of their tokens, and which of it the loss is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_dist.data.checking.figures import Measured
from lora_dist.data.columns import Selection
from lora_dist.data.masks import Row
from lora_dist.data.tokens import NOT_SCORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 3
"""Examples of each data section."""


@dataclass(frozen=True)
class Segment:
    """Tokens side by side that are alike."""

    text: str
    scored: bool
    """Whether the loss is on them."""
    special: bool
    """Whether they are special tokens, such as BOS."""


@dataclass(frozen=True)
class Rendered:
    """One example, special tokens included."""

    split: str
    """train, validation or test."""
    row: str
    """How a person finds it: row 7 of split 'train', or block 1 of running text."""
    tokens: int
    scored_tokens: int
    cut: int
    """Tokens that max_length takes away."""
    segments: tuple[Segment, ...]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def rendered_examples(
    tokenizer: PreTrainedTokenizerBase, selections: Mapping[str, Selection], measured: Mapping[str, Measured]
) -> tuple[Rendered, ...]:
    """Three examples: the first of train, the longest of train, the first of test; others where these are not there."""
    chosen = list(dict.fromkeys(_candidates(measured)))[:SHOWN]
    return tuple(_rendered(tokenizer, part, index, selections[part], measured[part]) for part, index in chosen)


def _candidates(measured: Mapping[str, Measured]) -> Iterator[tuple[str, int]]:
    lengths = {part: [len(row.ids) for row in split.encoded] for part, split in measured.items() if split.made}
    if "train" in lengths:
        yield "train", 0
        if measured["train"].figures.blocks is None:
            yield "train", int(np.argmax(lengths["train"]))
    if "test" in lengths:
        yield "test", 0
    for part in lengths:
        for index in range(min(SHOWN, len(measured[part].made))):
            yield part, index


def _rendered(
    tokenizer: PreTrainedTokenizerBase, part: str, index: int, selection: Selection, measured: Measured
) -> Rendered:
    row = measured.made[index]
    is_block = measured.figures.blocks is not None
    return Rendered(
        split=part,
        row=f"block {index + 1} of the running text" if is_block else selection.row(index),
        tokens=len(row.ids),
        scored_tokens=len(row.scored_ids),
        cut=0 if is_block else len(measured.encoded[index].ids) - len(row.ids),
        segments=tuple(_segments(tokenizer, row)),
    )


def _segments(tokenizer: PreTrainedTokenizerBase, row: Row) -> Iterator[Segment]:
    """Runs of tokens that are alike.

    Each is what it adds to the text of all tokens before it: decoded alone, a run may lose the space at its beginning.
    """
    special = np.isin(row.ids, tokenizer.all_special_ids)
    kinds = list(zip((row.labels != NOT_SCORED).tolist(), special.tolist(), strict=True))
    end, before = 0, ""
    for (is_scored, is_special), run in groupby(kinds):
        end += len(list(run))
        text = tokenizer.decode(row.ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield Segment(text[len(before) :], is_scored, is_special)
        before = text
