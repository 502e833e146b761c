"""Random choices that come out the same under every Python version."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Choice = TypeVar("Choice")


class Dice:
    """Seeded choices built on `Random.random` alone.

    The sequence of `random()` is the only one that Python promises to keep between versions (its
    documentation, "Notes on Reproducibility"); `choice` and `shuffle` have changed before.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random  # noqa: S311 - texts, not secrets

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return low + int(self._random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random() < probability

    def pick(self, choices: Sequence[Choice]) -> Choice:
        """One of `choices`."""
        return choices[int(self._random() * len(choices))]

    def some(self, choices: Sequence[Choice], count: int) -> list[Choice]:
        """`count` different members of `choices`, in random order."""
        left = list(choices)
        return [left.pop(int(self._random() * len(left))) for _ in range(count)]
