"""Every row that a format refuses, where the format itself stops at the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lora_dist.data.checking.findings import NAMED, Finding, such_rows
from lora_dist.data.columns import Selection
from lora_dist.data.formats import Example, Format
from lora_dist.data.rows import Rows
from lora_dist.errors import Problem, UserError


@dataclass(frozen=True)
class Judged:
    """One split of a source after each of its rows has been looked at."""

    selection: Selection | None
    """The rows that can be used; None where there are none, or where the whole split cannot be."""
    findings: tuple[Finding, ...]
    left_out: tuple[int, ...]
    """Rows without any text, which the format passes over; from 1."""


def judge(part: str, form: Format, rows: Rows) -> Judged:
    """Ask the format for a split, and where it refuses, for the halves of it, down to the rows that it refuses.

    Args:
        part: train, validation or test.
    """
    try:
        selection = form.select(rows)
    except UserError as error:
        of_all = [problem for problem in error.problems if not _is_of_row(problem, rows.name)]
        if of_all:
            return Judged(None, tuple(Finding("unusable", problem, True, 0, part) for problem in of_all), ())
        good, faults = _Halving(form).of(rows)
    else:
        good, faults = selection, {}
    told = {number for numbers in faults.values() for number in numbers}.union(good.numbers if good else ())
    left_out = tuple(number for number in range(1, len(rows) + 1) if number not in told)
    return Judged(good, tuple(_findings(part, rows.name, faults)), left_out)


def render(
    part: str, form: Format, selection: Selection, heard: Callable[[int], None]
) -> tuple[Selection, list[Example], list[Finding]]:
    """The texts of a split, without the rows whose chat template refuses them.

    Args:
        heard: told now and then how many rows are done.
    """
    examples: list[Example] = []
    kept: list[int] = []
    faults: Faults = {}
    for index in range(len(selection)):
        if index % _OFTEN == 0:
            heard(index)
        try:
            examples.append(form.example(selection, index))
            kept.append(index)
        except UserError as error:
            _note(faults, error.problems, selection.row(index), selection.numbers[index])
    good = selection if len(kept) == len(selection) else selection.only(kept)
    return good, examples, _findings(part, selection.split, faults)


Faults = dict[Problem, list[int]]
"""What is wrong with a row, said without naming one -> the rows that have it."""

_OFTEN = 1000
"""Rows from one word of progress to the next."""
_ROW = "\0"
"""Stands where a problem names its row."""


class _Halving:
    """Finds refused rows by halving: few of many cost little."""

    def __init__(self, form: Format) -> None:
        self._form = form

    def of(self, rows: Rows, before: int = 0) -> tuple[Selection | None, Faults]:
        """The usable ones of some rows, and what is wrong with the others; `before` rows of the split stand before."""
        try:
            selection = self._form.select(rows)
            return replace(selection, numbers=[before + number for number in selection.numbers]), {}
        except UserError as error:
            if len(rows) == 1:
                faults: Faults = {}
                of_row = [problem for problem in error.problems if _is_of_row(problem, rows.name)]
                _note(faults, of_row, f"row 1 of split '{rows.name}'", before + 1)  # others say that it has no text
                return None, faults
        middle = len(rows) // 2
        left, faults = self.of(_part(rows, 0, middle), before)
        right, more = self.of(_part(rows, middle, len(rows)), before + middle)
        for problem, numbers in more.items():
            faults.setdefault(problem, []).extend(numbers)
        return _joined(left, right), faults


def _part(rows: Rows, start: int, end: int) -> Rows:
    columns = {name: values[start:end] for name, values in rows.columns.items()}
    return replace(rows, columns=columns, count=end - start)


def _joined(left: Selection | None, right: Selection | None) -> Selection | None:
    if left is None or right is None:
        return right if left is None else left
    return replace(left, values=[*left.values, *right.values], numbers=[*left.numbers, *right.numbers])


def _is_of_row(problem: Problem, split: str) -> bool:
    return problem.problem.startswith("row ") and f" of split '{split}'" in problem.problem


def _note(faults: Faults, problems: Sequence[Problem], row: str, number: int) -> None:
    for problem in problems:
        faults.setdefault(replace(problem, problem=problem.problem.replace(row, _ROW, 1)), []).append(number)


def _findings(part: str, split: str, faults: Faults) -> list[Finding]:
    found = []
    for problem, numbers in faults.items():
        said = problem.problem.replace(_ROW, f"row {numbers[0]} of split '{split}'") + such_rows(numbers)
        first = tuple(numbers[:NAMED])
        found.append(Finding("unusable_row", replace(problem, problem=said), True, len(numbers), part, first))
    return found
