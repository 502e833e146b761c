"""What `lora-dist check-data` prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from lora_dist.cli.output import finish, stdout
from lora_dist.reporting.words import many, one_line, percent, readable

if TYPE_CHECKING:
    from lora_dist.data.checking.check import DataCheck
    from lora_dist.data.checking.label_balance import LabelBalance
    from lora_dist.data.checking.rendered import Rendered, Segment
    from lora_dist.verbs.check_data import CheckedData

_LONGEST = 400
"""Characters of a segment that are shown; the middle of a longer one is left out."""
_MOST_LABELS = 20
_MARKS = ("⟦", "⟧"), ("[[", "]]")
"""Around what the loss is on, where nothing can be dimmed; the second where the first cannot be written."""


def print_checks(checked: Sequence[CheckedData], words: Sequence[str], *, as_json: bool, strict: bool) -> None:
    """Figures, labels, examples and warnings of each data section; what stops training is for stderr, after this."""
    if as_json:
        stdout.file.write(json.dumps({"checks": [item.document() for item in checked]}, indent=2) + "\n")
        return
    for item in checked:
        _print_heading(item, is_alone=len(checked) == 1)
        _print_figures(item.found)
        if item.found.labels is not None:
            _print_labels(*item.found.labels)
        _print_examples(item.found.examples)
        for finding in item.found.warnings if not strict else ():
            _say(f"warning: {one_line(finding.problem, 1000)}", style="yellow")
    _print_verdict(checked, words, strict=strict)


def _say(text: str = "", style: str | None = None) -> None:
    stdout.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _print_heading(item: CheckedData, *, is_alone: bool) -> None:
    path = item.data.path
    name = path if isinstance(path, str) else ", ".join(f"{split}: {file}" for split, file in path.items())
    of = "" if is_alone else f" (arms: {', '.join(item.arms)})"
    _say(f"{one_line(name)}{of}: {item.data.task}, in tokens of {one_line(item.model)}", style="bold")
    _say()


def _print_figures(found: DataCheck) -> None:
    if not found.splits:
        return
    is_text = any(figures.blocks is not None for figures in found.splits.values())
    table = Table(box=None, pad_edge=False)
    for title in ("split", "from"):
        table.add_column(title, overflow="fold")
    cut = ("blocks",) if is_text else (f"longer than {found.lengths.max_length}", "lose scored tokens")
    for title in ("documents" if is_text else "rows", "shortest", "median", "95%", "longest", *cut, "scored tokens"):
        table.add_column(title, justify="right")
    for split, figures in found.splits.items():
        numbers = [figures.rows, figures.shortest, figures.median, figures.percentile_95, figures.longest]
        numbers += [figures.blocks or 0] if is_text else [figures.cut, figures.cut_scored]
        source = f"held out of {figures.source}" if figures.held_out else figures.source
        table.add_row(split, one_line(source), *(f"{number:,}" for number in [*numbers, figures.scored_tokens]))
    stdout.print(table, markup=False, highlight=False)
    laid = f"; documents are laid end to end in blocks of {found.lengths.block_size}" if is_text else ""
    _say(f"lengths in tokens, special ones included, before anything is cut{laid}")
    _say()


def _print_labels(column: str, balance: LabelBalance) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"label (column {column})", overflow="fold")
    for split in balance.counts:
        table.add_column(split, justify="right")
    for label in balance.labels[:_MOST_LABELS]:
        cells = [
            f"{counts[label]:,} ({percent(balance.share(split, label))})" for split, counts in balance.counts.items()
        ]
        table.add_row(Text(one_line(label)), *cells)
    stdout.print(table, markup=False, highlight=False)
    if len(balance.labels) > _MOST_LABELS:
        _say(f"... and {many(len(balance.labels) - _MOST_LABELS, 'label')} more")
    majority = balance.majority("test") if "test" in balance.counts else None
    if majority is not None:
        _say(f"always saying '{one_line(majority[0])}' would be right on {percent(majority[1])} of test")
    _say()


def _print_examples(examples: Sequence[Rendered]) -> None:
    for example in examples:
        cut = f", {many(example.cut, 'more token')} cut" if example.cut else ""
        scored = f"{example.scored_tokens:,}" if example.scored_tokens else "its label"
        told = f"{many(example.tokens, 'token')}, the loss is on {scored}{cut}"
        _say(f"{example.split}, {example.row}: {told}", style="bold")
        stdout.print(_shown(example.segments), soft_wrap=True, highlight=False)
        _say()
    if examples:
        marked = "shown bright, what is dim is only read" if stdout.is_terminal else f"between {' and '.join(_marks())}"
        _say(f"What the loss is on is {marked}.")


def _shown(segments: Sequence[Segment]) -> Text:
    """The text of an example; scored tokens are bright or between marks, special ones coloured."""
    text, (opening, closing) = Text(), _marks()
    was_scored = False
    for segment in segments:
        if not stdout.is_terminal and segment.scored != was_scored:
            text.append(opening if segment.scored else closing)
        was_scored = segment.scored
        colour = "magenta" if segment.special else "bold green" if segment.scored else ""
        text.append(_short(readable(segment.text)), style=colour if segment.scored else f"dim {colour}".strip())
    if not stdout.is_terminal and was_scored:
        text.append(closing)
    return text


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} ... {len(text) - 2 * half:,} characters ... {text[-half:]}"


def _marks() -> tuple[str, str]:
    try:
        "".join(_MARKS[0]).encode(stdout.encoding)
    except UnicodeEncodeError:
        return _MARKS[1]
    return _MARKS[0]


def _print_verdict(checked: Sequence[CheckedData], words: Sequence[str], *, strict: bool) -> None:
    problems = sum(len(item.found.problems) for item in checked)
    warnings = sum(len(item.found.warnings) for item in checked)
    _say()
    if problems:
        stops = f"{many(problems, 'problem')} would stop training"
        _say(f"{stops}, {many(warnings, 'warning')}.")
        return
    _say(f"Nothing stops training; {many(warnings, 'warning') if warnings else 'nothing looks odd'}.")
    if not (strict and warnings):
        finish({}, shlex.join(["lora-dist", "compare", *words]))
