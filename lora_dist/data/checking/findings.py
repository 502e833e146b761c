"""What is wrong with data, in the words of the errors that the pipeline raises, with all the rows that have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora_dist.errors import Problem

NAMED = 3
"""How many rows are named of those that have a problem."""

Kind = Literal[
    "unusable",
    "unusable_row",
    "nothing_scored",
    "empty_value",
    "left_out",
    "cut",
    "repeated_row",
    "repeated_prompt",
    "leaked_row",
    "leaked_prompt",
    "near_duplicate",
    "labels",
]
"""unusable: a source, a split or a setting. unusable_row: rows that the pipeline refuses, such as one with null."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data, or looks so."""

    kind: Kind
    problem: Problem
    stops: bool
    """Whether training refuses to start; else it is a warning."""
    count: int
    """How many rows have it; 0 where it is not about rows."""
    split: str | None = None
    """train, validation or test."""
    rows: tuple[int, ...] = ()
    """The first of them, as the source numbers them from 1."""
    other_split: str | None = None
    other_rows: tuple[int, ...] = ()
    """The row that each of `rows` is like, in `other_split`."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "level": "problem" if self.stops else "warning",
            "kind": self.kind,
            "key": self.problem.key,
            "problem": self.problem.problem,
            "fix": self.problem.fix,
            "count": self.count,
            "split": self.split,
            "rows": list(self.rows),
            "other_split": self.other_split,
            "other_rows": list(self.other_rows),
        }


def such_rows(numbers: Sequence[int]) -> str:
    """The rows beside the first that have the same problem: " (5 such rows: 7, 9, 12, ...)", or nothing for one."""
    if len(numbers) < 2:
        return ""
    named = ", ".join(map(str, numbers[:NAMED]))
    return f" ({len(numbers):,} such rows: {named}{', ...' if len(numbers) > NAMED else ''})"
