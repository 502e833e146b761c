"""Columns -> the checked values of the rows, and nothing else of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_dist.config.problems import nearest
from lora_dist.data.rows import Rows, and_more, refuse
from lora_dist.errors import Problem


@dataclass(frozen=True)
class Selection:
    """The values of one split that its texts are made of."""

    split: str
    """What the source calls the split that these rows were read from."""
    values: Sequence[tuple[Any, ...]]
    """One tuple per row, in the order of the columns that were asked for."""
    numbers: Sequence[int]
    """Which row of the source's split each one is, from 1."""

    def __len__(self) -> int:
        return len(self.values)

    def only(self, indices: Sequence[int]) -> Selection:
        """The rows at `indices`, in that order."""
        return Selection(self.split, [self.values[i] for i in indices], [self.numbers[i] for i in indices])

    def row(self, index: int) -> str:
        """How a person finds a row: "row 7 of split 'train'"."""
        return f"row {self.numbers[index]} of split '{self.split}'"


Reason = Callable[[Any], str | None]
"""What is wrong with a value, in words that follow "row 7 of split 'train'"; None when nothing is."""


def select(
    rows: Rows,
    columns: Mapping[str, str],
    reason: Reason,
    convert: Callable[[Any], Any],
    *,
    may_be_null: Collection[str] = (),
) -> Selection:
    """The values of some columns, each checked and converted.

    Args:
        rows: one split.
        columns: column -> the setting that names it, such as data.columns.prompt.
        reason: says what is wrong with a value.
        convert: applied to each value that nothing is wrong with.
        may_be_null: columns in which null is an empty text.
    Raises:
        DataError: a column is not there, the split has no rows, or a value is not usable; the first such row of each
            column is named.
    """
    refuse(_missing(rows, columns))
    if not len(rows):
        refuse([Problem("data.path", f"split '{rows.name}' has no rows", "give a split that has some")])
    values = {name: rows.column(name) for name in columns}
    values |= {name: ["" if value is None else value for value in values[name]] for name in may_be_null}
    refuse(_unusable(rows.name, values, columns, reason))
    converted = [[convert(value) for value in column] for column in values.values()]
    return Selection(rows.name, list(zip(*converted, strict=True)), range(1, len(rows) + 1))


def _missing(rows: Rows, columns: Mapping[str, str]) -> Iterator[Problem]:
    if not len(rows) and not rows.columns:  # an empty file has no columns either: that it is empty is what matters
        return
    for name, key in columns.items():
        if name not in rows.columns:
            yield Problem(key, f"split '{rows.name}' has no column '{name}'", nearest(name, rows.columns))


def _unusable(
    split: str, values: Mapping[str, list[Any]], columns: Mapping[str, str], reason: Reason
) -> Iterator[Problem]:
    for name, column in values.items():
        found = [(number, why) for number, value in enumerate(column, start=1) if (why := reason(value))]
        if found:
            number, why = found[0]
            yield Problem(
                columns[name],
                f"row {number} of split '{split}' {why} in column '{name}'{and_more(len(found) - 1)}",
                "fill it in or remove the row",
            )


def text_reason(value: Any) -> str | None:
    """What keeps a value from being text: it is null or NaN, a list or an object, or not Unicode."""
    if isinstance(value, str):
        return None if value.isascii() or _is_unicode(value) else "has half a character (a lone surrogate)"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "has null"
    if isinstance(value, int | float):
        return None
    return f"has a {type(value).__name__} instead of text"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
