"""classification: texts -> token ids with the special tokens that the model was trained with, and a class each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lora_dist.data.columns import Selection
from lora_dist.data.labelled import LabelledTexts
from lora_dist.data.lengths import Lengths
from lora_dist.data.masks import Row
from lora_dist.data.rows import and_more, refuse_one
from lora_dist.data.tables import MadeSplit, table_of
from lora_dist.data.tokens import SplitFacts
from lora_dist.errors import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1000  # examples per call of the tokenizer


@dataclass(frozen=True)
class ClassRow(Row):
    """One example as tokens, cut at max_length; `labels` is its class alone."""

    was_cut: bool


class ClassMaker:
    """Makes the tokens of one split after the other.

    Special tokens are the tokenizer's own ([CLS] ... [SEP] for BERT, BOS for Llama), and a row that is cut keeps them.
    """

    def __init__(
        self, form: LabelledTexts, tokenizer: PreTrainedTokenizerBase, lengths: Lengths, labels: Sequence[str]
    ) -> None:
        self._form, self._tokenizer, self._most = form, tokenizer, lengths.max_length
        self.labels = tuple(labels)
        """What the classes 0, 1, ... are called."""
        self._classes = {name: index for index, name in enumerate(labels)}

    def encode(
        self, part: str, selection: Selection, progress: Callable[[str, int, int, str], None] | None
    ) -> list[ClassRow]:
        """The tokens of every example of train, validation or test, cut at max_length, and its class."""
        rows: list[ClassRow] = []
        for start in range(0, len(selection), _BATCH):
            indices = range(start, min(start + _BATCH, len(selection)))
            examples = [self._form.example(selection, index) for index in indices]
            encoded = self._ids([example.text for example in examples])
            long = [number for number, ids in enumerate(encoded) if len(ids) > self._most]
            for number, ids in zip(
                sorted(long), self._ids([examples[n].text for n in sorted(long)], cut=True), strict=True
            ):
                encoded[number] = ids
            are_long = np.isin(np.arange(len(examples)), long)
            for ids, example, is_long in zip(encoded, examples, are_long.tolist(), strict=True):
                label = np.array([self._classes[example.label]], np.int32)
                rows.append(ClassRow(ids, label, was_cut=is_long))
            if progress is not None:
                progress("tokenise", indices.stop, len(selection), part)
        return rows

    def _ids(self, texts: list[str], *, cut: bool = False) -> list[np.ndarray]:
        if not texts:
            return []
        encoded = self._tokenizer(
            texts,
            truncation=cut,
            max_length=self._most if cut else None,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]

    def refuse_lost(self, selections: Mapping[str, Selection], encoded: Mapping[str, Sequence[Row]]) -> None:
        """Refuse rows without a token of their text: there is nothing to tell their class by.

        Raises:
            DataError: naming the first such row, and how many there are.
        """
        special = self._tokenizer.num_special_tokens_to_add()
        lost = [
            selections[part].row(index)
            for part, rows in encoded.items()
            for index, row in enumerate(rows)
            if len(row.ids) <= special
        ]
        if not lost:
            return
        if self._most <= special:
            problem = f"{self._most} tokens leave no room for a text beside {special} special tokens"
            refuse_one(Problem("data.max_length", problem, "raise it"))
        problem = f"{lost[0]} has a text that the tokenizer makes no token of{and_more(len(lost) - 1)}"
        refuse_one(Problem("data.path", problem, "remove the row"))

    def finish(self, _selection: Selection, encoded: Sequence[ClassRow]) -> MadeSplit:
        """The rows of a split as a table."""
        first = self._tokenizer.bos_token_id
        counts = np.bincount([row.labels[0] for row in encoded], minlength=len(self.labels))
        facts = SplitFacts(
            rows=len(encoded),
            tokens=sum(len(row.ids) for row in encoded),
            scored_tokens=len(encoded),
            scored_bytes=0,
            truncated=sum(row.was_cut for row in encoded),
            longest=max(len(row.ids) for row in encoded),
            label_counts=tuple(counts.tolist()),
        )
        bos = first is not None and all(row.ids[0] == first for row in encoded)
        return MadeSplit(table_of(encoded), facts, bos)
