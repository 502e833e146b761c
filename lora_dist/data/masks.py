"""Texts -> token ids and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_dist.data.formats import Example
from lora_dist.data.tokens import NOT_SCORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Row:
    """One example as tokens: two int32 arrays of one length, not cut yet."""

    ids: np.ndarray
    labels: np.ndarray
    """The ids that the loss is on, NOT_SCORED elsewhere and at the first."""

    @property
    def scored_ids(self) -> np.ndarray:
        """The ids that the loss is on."""
        return self.ids[self.labels != NOT_SCORED]

    @property
    def first_scored(self) -> int:
        """Where the loss begins; the row's length when it is on nothing."""
        scored = np.flatnonzero(self.labels != NOT_SCORED)
        return int(scored[0]) if len(scored) else len(self.ids)

    def is_lost(self, length: int) -> bool:
        """Whether nothing is left to score in the first `length` tokens."""
        return self.first_scored >= min(length, len(self.ids))

    def cut(self, length: int) -> Row:
        """At most the first `length` tokens."""
        return self if len(self.ids) <= length else Row(self.ids[:length], self.labels[:length])


class Encoder:
    """Encodes with one tokenizer. Special tokens are added here, and never by the tokenizer, so none is doubled."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.bos: int | None = tokenizer.bos_token_id
        self.eos: int | None = tokenizer.eos_token_id

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The bare ids of each text, int32."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # texts above the model's context are cut later
        )
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]

    def documents(self, examples: Sequence[Example]) -> list[Row]:
        """BOS + text + EOS of each example, where the tokenizer has them; all but the first token scored."""
        return [_all_scored(self._finished(ids)[0]) for ids in self.ids([example.text for example in examples])]

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Ids and labels of examples.

        A span of the loss begins where the ids of the whole text part from those of the text before the span: a token
        merged over that border is scored. It ends with the last token that reaches into it.
        """
        whole = self.ids([example.text for example in examples])
        borders = [
            (example, border)
            for example in examples
            for start, end in example.spans
            for border in ((start, end) if end < len(example.text) else (start,))
        ]
        before = iter(self.ids([example.text[:border] for example, border in borders]))
        return [self._row(example, ids, before) for example, ids in zip(examples, whole, strict=True)]

    def _row(self, example: Example, ids: np.ndarray, before: Iterator[np.ndarray]) -> Row:
        scored = np.zeros(len(ids), dtype=bool)
        for _, end in example.spans:
            first = common_prefix(ids, next(before))
            last = self._reach(ids, next(before)) if end < len(example.text) else len(ids)
            scored[first:last] = True
        if not example.finished:
            ids, front, back = self._finished(ids)
            scored = np.concatenate([np.zeros(front, bool), scored, np.ones(back, bool)])
        scored[:1] = False
        return Row(ids, np.where(scored, ids, np.int32(NOT_SCORED)))

    def _finished(self, ids: np.ndarray) -> tuple[np.ndarray, int, int]:
        """BOS + ids + EOS, and how many were put before and behind; one that the text itself has is not doubled."""
        front = [self.bos] if self.bos is not None and (not len(ids) or ids[0] != self.bos) else []
        back = [self.eos] if self.eos is not None and (not len(ids) or ids[-1] != self.eos) else []
        return np.concatenate([front, ids, back]).astype(np.int32), len(front), len(back)

    def _reach(self, ids: np.ndarray, before: np.ndarray) -> int:
        """How many of `ids` it takes to hold the text whose own ids are `before`."""
        same = common_prefix(ids, before)
        if same == len(before):
            return same
        rest = len(self._tokenizer.decode(before[same:]))  # its end was merged with what follows
        reach = same + 1
        while reach < len(ids) and len(self._tokenizer.decode(ids[same:reach])) < rest:
            reach += 1
        return reach


def common_prefix(left: np.ndarray, right: np.ndarray) -> int:
    """How many ids two sequences have in common at their beginning."""
    shorter = min(len(left), len(right))
    differ = np.flatnonzero(left[:shorter] != right[:shorter])
    return int(differ[0]) if len(differ) else shorter


def blocks(documents: Sequence[Row], size: int) -> list[Row]:
    """Documents laid end to end and cut into rows of `size` tokens; the last is shorter, and left out below 2.

    All tokens but each row's first are scored.
    """
    stream = np.concatenate([np.zeros(0, np.int32), *(document.ids for document in documents)])
    starts = range(0, len(stream) - 1, size)  # at least one more token follows each start
    return [_all_scored(stream[start : start + size]) for start in starts]


def _all_scored(ids: np.ndarray) -> Row:
    labels = ids.copy()
    labels[:1] = NOT_SCORED
    return Row(ids, labels)
