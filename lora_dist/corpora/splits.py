"""Dealing generated rows out to train, validation and test, so that the splits share no row and test has news."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from lora_dist.corpora.dice import Dice

Row = dict[str, str | int]
Splits = dict[str, list[Row]]

HELD_OUT_EVERY = 7  # of the pairs of a kind; the test split alone has them


class Draft(NamedTuple):
    """A row that has been written but belongs to no split yet."""

    row: Row
    asked: str
    """What a model is given of the row. Two rows that ask the same are the same row."""
    is_held_out: bool
    """Whether the row holds a combination that is kept for the test split."""


def deal(write: Callable[[Dice], Draft], sizes: Mapping[str, int], seed: int, test_every: int = 6) -> Splits:
    """As many rows as `sizes` says of each of "train", "validation" and "test".

    To which split a row belongs follows from the row alone: test takes the held-out ones and one in `test_every`
    of the others, validation as many of the others. So no row is in two splits, and a smaller split is the
    beginning of a larger one.
    """
    dice, asked = Dice(seed), set[str]()
    splits: Splits = {name: [] for name in sizes}
    while any(len(splits[name]) < size for name, size in sizes.items()):
        draft = write(dice)
        name = _split_of(draft, test_every)
        if len(splits[name]) < sizes[name] and draft.asked not in asked:
            asked.add(draft.asked)
            splits[name].append(draft.row)
    return splits


def is_held_out(first: int, second: int) -> bool:
    """Whether the pair of the `first` thing of one kind and the `second` of another is kept for the test split.

    Each of the two is still met in training, with others, when there are at least two of both kinds.
    """
    return (first + second) % HELD_OUT_EVERY == 0


def _split_of(draft: Draft, test_every: int) -> str:
    share = zlib.crc32(draft.asked.encode()) % test_every
    if draft.is_held_out or share == 0:
        return "test"
    return "validation" if share == 1 else "train"
