"""Right answers by the number of steps that the worked solution has: where a model stops following."""

from __future__ import annotations

from collections import defaultdict

from lora_dist.evaluation.answers import steps_of
from lora_dist.evaluation.statistics import wilson
from lora_dist.reporting.cells import Cell, SideTable, groups_of
from lora_dist.reporting.rows import Comparison, Group, Row
from lora_dist.reporting.words import NOTHING, many, with_interval
from lora_dist.store.lines import read_lines

_MOST = 8
"""Longer solutions are counted together."""


def steps_tables(comparison: Comparison) -> list[SideTable]:
    """A table for each group of the math task in which solutions differ in their number of steps."""
    return [table for heading, group in groups_of(comparison) if (table := _table(heading, group))]


def _table(heading: str, group: Group) -> SideTable | None:
    counted = {row.name: _right_by_steps(row) for row in group.rows if row.run.data.task == "math"}
    steps = sorted({step for of_row in counted.values() for step in of_row})
    if len(steps) < 2:
        return None
    cells = tuple(
        (Cell((name,)), *(_share(*of_row[step]) if step in of_row else Cell((NOTHING,)) for step in steps))
        for name, of_row in counted.items()
        if of_row
    )
    title = "Exact match by steps of the solution, %"
    headings = ("arm", *(f"{many(step, 'step')}{' or more' if step == _MOST else ''}" for step in steps))
    worths = (9, *(9 if step in (steps[0], steps[-1]) else 5 for step in steps))
    return SideTable(f"{title} ({heading})" if heading else title, headings, cells, worths=worths)


def _right_by_steps(row: Row) -> dict[int, tuple[int, int]]:
    """Number of steps -> (right answers, answers)."""
    found: dict[int, list[float]] = defaultdict(list)
    for line in read_lines(row.at.folder.predictions):
        score = line.get("score")
        if isinstance(score, dict) and "exact_match" in score and isinstance(line.get("reference"), str):
            found[min(_MOST, steps_of(line["reference"]))].append(score["exact_match"])
    return {steps: (round(sum(scores)), len(scores)) for steps, scores in found.items()}


def _share(right: int, answers: int) -> Cell:
    value, interval = with_interval(*(100 * part for part in (right / answers, *wilson(right, answers))))
    return Cell((value, f"{interval} of {answers}"))
