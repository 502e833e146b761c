"""From a data section to the rows that can be used, and everything that is wrong with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from lora_dist.config.sections import DataSection
from lora_dist.data.checking.findings import NAMED, Finding, such_rows
from lora_dist.data.checking.row_faults import judge
from lora_dist.data.columns import Selection
from lora_dist.data.formats import Format, format_of
from lora_dist.data.labelled import labelled_texts
from lora_dist.data.rows import Rows
from lora_dist.data.sources import find_splits
from lora_dist.data.splits import complete_splits
from lora_dist.data.tasks import columns_by_role
from lora_dist.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_T = TypeVar("_T")
_OFTEN = 0.5
"""A column of the template that is empty in more of its rows is meant to be."""
_NEEDED = ("text", "prompt", "messages")
"""Roles whose columns are never meant to be empty. (An empty completion is refused.)"""


@dataclass
class Source:
    """What there is to train on, as far as it can be used."""

    form: Format | None = None
    """None where the settings or all of the data cannot be used."""
    selections: dict[str, Selection] = field(default_factory=dict)
    """train, validation and test, as training would have them without the rows that it refuses."""
    held_out: tuple[str, ...] = ()
    """Those that the source lacks, so that they are held out of train."""
    findings: list[Finding] = field(default_factory=list)
    rows: dict[str, Rows] = field(default_factory=dict)

    def values(self, part: str, column: str) -> list[Any] | None:
        """The values of any column in the rows of a part; None where the source lacks the column."""
        rows = self.rows["train" if part in self.held_out else part]
        if column not in rows.columns:
            return None
        values = rows.column(column)
        return [values[number - 1] for number in self.selections[part].numbers]


def read_source(
    section: DataSection, tokenizer: PreTrainedTokenizerBase, heard: Callable[[int, int, str], None]
) -> Source:
    """Read every split and look at every row of it; what is wrong becomes a finding.

    Args:
        heard: told of the splits done, how many there are, and which is next.
    """
    source = Source()
    splits = _caught(source.findings, lambda: find_splits(section)) or {}
    for number, (part, split) in enumerate(splits.items()):
        heard(number, len(splits), part)
        rows = _caught(source.findings, split.read, part)
        if rows is not None:
            source.rows[part] = rows
    typical = _typical(source.rows)
    if typical is not None:
        source.form = _caught(source.findings, lambda: _form(section, tokenizer, typical))
    if source.form is not None:
        _select(source, source.form, section, is_whole=len(source.rows) == len(splits))
    return source


def _form(section: DataSection, tokenizer: PreTrainedTokenizerBase, typical: Rows) -> Format:
    if section.task == "classification":
        return labelled_texts(section, typical)
    return format_of(section, tokenizer, typical)


def _typical(rows: Mapping[str, Rows]) -> Rows | None:
    """The split by whose columns the format is chosen: train, unless that has none (an empty file)."""
    order = sorted(rows, key=lambda part: (not rows[part].columns, part != "train"))
    return rows[order[0]] if order else None


def _select(source: Source, form: Format, section: DataSection, *, is_whole: bool) -> None:
    """The rows of each split, and what is missing held out of train, unless a split is there and cannot be used."""
    selections = {}
    for part, rows in source.rows.items():
        columns = _Noted(rows.columns)
        found = judge(part, form, replace(rows, columns=columns))
        source.findings += found.findings
        if found.selection is not None:
            selections[part] = found.selection
            source.findings += _left_out(part, rows, found.left_out)
            source.findings += _empty_values(part, rows, found.selection, columns.read, section)
    source.selections = selections
    if is_whole and len(selections) == len(source.rows):
        complete = _caught(source.findings, lambda: complete_splits(selections, section))
        if complete is not None:
            source.held_out = tuple(part for part in complete if part not in selections)
            source.selections = complete


def _caught(findings: list[Finding], action: Callable[[], _T], part: str | None = None) -> _T | None:
    """What `action` returns; where it is refused None, and why becomes findings."""
    try:
        return action()
    except UserError as error:
        findings += [Finding("unusable", problem, True, 0, part) for problem in error.problems]
        return None


class _Noted(dict[str, Any]):
    """Columns that remember which of them were read: those that a format makes its texts of."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        super().__init__(columns)
        self.read: dict[str, None] = {}

    def __getitem__(self, name: str) -> Any:
        self.read[name] = None
        return super().__getitem__(name)


def _left_out(part: str, rows: Rows, numbers: tuple[int, ...]) -> Iterator[Finding]:
    if numbers:
        what = f"row {numbers[0]} of split '{rows.name}' has no text and is left out{such_rows(numbers)}"
        problem = Problem("data.path", what, "fill it in or remove the row")
        yield Finding("left_out", problem, False, len(numbers), part, numbers[:NAMED])


def _empty_values(
    part: str, rows: Rows, selection: Selection, columns: Iterable[str], section: DataSection
) -> Iterator[Finding]:
    """Values that are there and say nothing, in rows that are used all the same."""
    roles = columns_by_role(section, rows.columns)
    used, needed = set(selection.numbers), {roles[role] for role in _NEEDED}
    for name in columns:
        values = enumerate(rows.column(name), start=1)
        numbers = [number for number, value in values if number in used and _is_empty(value)]
        if numbers and (name in needed or len(numbers) < _OFTEN * len(used)):
            what = f"row {numbers[0]} of split '{rows.name}' has nothing in column '{name}'{such_rows(numbers)}"
            problem = Problem("data.path", what, "fill it in or remove the row")
            yield Finding("empty_value", problem, False, len(numbers), part, tuple(numbers[:NAMED]))


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list):  # a conversation: one turn that says nothing is enough
        return any(isinstance(message, dict) and _is_empty(message.get("content")) for message in value)
    return False
