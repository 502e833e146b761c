"""The arms of a comparison's rows: what a plot gives a colour, and names the best of."""

from __future__ import annotations

from collections.abc import Sequence

from lora_dist.reporting.rows import Comparison, Row, best


def arm_of(row: Row) -> tuple[str, str]:
    """A row's arm, told apart from one of the same name in another experiment."""
    return row.experiment, row.run.arm


def arm_indices(comparison: Comparison) -> dict[tuple[str, str], int]:
    """A number for each arm, the same in all plots, from which its colour and marker follow."""
    arms = dict.fromkeys(arm_of(row) for row in comparison.finished if row.run.trains)
    return {arm: index for index, arm in enumerate(arms)}


def best_of_each_arm(rows: Sequence[Row]) -> set[str]:
    """The names of the rows that are the best of their arms."""
    arms = dict.fromkeys(arm_of(row) for row in rows)
    found = [best([row for row in rows if arm_of(row) == arm]) for arm in arms]
    return {row.name for row in found if row}
