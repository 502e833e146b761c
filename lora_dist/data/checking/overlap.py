"""Rows that occur twice: equal ones, and ones that share most of their words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

WORDS = 5
"""Words of a shingle (Lee et al. 2022, arXiv 2107.06499, compare documents by 5-grams)."""
SIMILAR = 0.8
"""The Jaccard similarity from which on two rows are near duplicates; theirs too."""

# Chinese and Japanese are written without spaces: there each sign is a word.
_WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff]|[^\\W\u3040-\u30ff\u3400-\u9fff]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing modulo 2^64
_BUCKETS = 2**20
_OFTEN = 100  # rows from one word of progress to the next


@dataclass(frozen=True)
class Pair:
    """Two rows, by index into what was compared."""

    left: int
    right: int


def normalised(text: str) -> str:
    """The text without differences of case and whitespace."""
    return " ".join(text.casefold().split())


def repeats(keys: Sequence[Hashable]) -> list[Pair]:
    """Every key that came before, with its first occurrence on the right."""
    first: dict[Hashable, int] = {}
    return [Pair(index, before) for index, key in enumerate(keys) if (before := first.setdefault(key, index)) != index]


def matches(left: Sequence[Hashable], right: Sequence[Hashable]) -> list[Pair]:
    """Every key on the left that is on the right too, with its first occurrence there."""
    first: dict[Hashable, int] = {}
    for index, key in enumerate(right):
        first.setdefault(key, index)
    return [Pair(index, first[key]) for index, key in enumerate(left) if key in first]


def shingles(text: str) -> np.ndarray:
    """The different runs of 5 words of a text as sorted 64-bit hashes; a shorter text is one run, an empty one none.

    Case, punctuation and whitespace do not count. The hashes are those of this process.
    """
    words = _WORD.findall(text.casefold())
    if not words:
        return np.zeros(0, np.uint64)
    codes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    size = min(WORDS, len(words))
    runs = np.zeros(len(words) - size + 1, np.uint64)
    for offset in range(size):
        runs = runs * _BASE + codes[offset : offset + len(runs)]
    return np.unique(runs)


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Shared over all of two sets of shingles; 0 where both are empty."""
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / max(1, len(left) + len(right) - shared)


def near_duplicates(
    left: Sequence[np.ndarray], right: Sequence[np.ndarray], heard: Callable[[int], None] | None = None
) -> list[Pair]:
    """Every row on the left that is similar to one on the right, with the first such row there.

    None is missed: of two sets of shingles with a Jaccard similarity of at least t, brought into one order, the first
    |A| - ceil(t |A|) + 1 of the one and of the other share a shingle. Only those are looked up, rare ones first, and
    only rows that share one are compared.
    Source: prefix filtering, Chaudhuri, Ganti and Kaushik 2006; Bayardo, Ma and Srikant 2007.

    Args:
        left, right: the shingles of each row (see `shingles`).
        heard: told now and then how many rows on the left are done.
    """
    rarity = _Rarity([*left, *right])
    index = _Index([rarity.prefix(row) for row in right])
    found = []
    for number, row in enumerate(left):
        if heard is not None and number % _OFTEN == 0:
            heard(number)
        candidates = index.rows_with(rarity.prefix(row))
        similar = next((other for other in candidates if _may_be(row, right[other]) >= SIMILAR), None)
        if similar is not None:
            found.append(Pair(number, int(similar)))
    return found


def _may_be(left: np.ndarray, right: np.ndarray) -> float:
    """The similarity, or a bound of it that is too low already."""
    bound = min(len(left), len(right)) / max(len(left), len(right))
    return bound if bound < SIMILAR else jaccard(left, right)


class _Rarity:
    """One order of all shingles, rare ones first: a phrase that every row has would make a pair of every two rows.

    Counts are of buckets that shingles may share: the order is as good as one, and any order is right.
    """

    def __init__(self, rows: Sequence[np.ndarray]) -> None:
        self._counts = np.zeros(_BUCKETS, np.int64)
        for row in rows:
            np.add.at(self._counts, row % _BUCKETS, 1)

    def prefix(self, row: np.ndarray) -> np.ndarray:
        """The rarest shingles of a row, as many as a similar row has to share one of."""
        if not len(row):
            return row
        count = len(row) - math.ceil(SIMILAR * len(row) - 1e-9) + 1
        return row[np.lexsort((row, self._counts[row % _BUCKETS]))[:count]]


class _Index:
    """Which rows have a shingle in their prefix."""

    def __init__(self, prefixes: Sequence[np.ndarray]) -> None:
        shingle = np.concatenate([np.zeros(0, np.uint64), *prefixes])
        row = np.repeat(np.arange(len(prefixes)), [len(prefix) for prefix in prefixes])
        order = np.argsort(shingle, kind="stable")
        self._shingles, self._rows = shingle[order], row[order]

    def rows_with(self, wanted: np.ndarray) -> Iterator[int]:
        """The rows that have any of these, in ascending order."""
        starts, ends = (np.searchsorted(self._shingles, wanted, side) for side in ("left", "right"))
        parts = [self._rows[start:end] for start, end in zip(starts, ends, strict=True)]
        return iter(np.unique(np.concatenate([np.zeros(0, np.int64), *parts])).tolist())
