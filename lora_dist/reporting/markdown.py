"""report.md. Texts of models, data and errors are escaped, so that they cannot break the table or become markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lora_dist.reporting.cells import Cell, SideTable, columns_for, groups_of
from lora_dist.reporting.generations import read_samples
from lora_dist.reporting.headline import headlines
from lora_dist.reporting.measured import COSTS, Fact, commands, environment_facts, facts, method_words
from lora_dist.reporting.plots import Plot
from lora_dist.reporting.rows import Comparison, Group, Row
from lora_dist.reporting.side_tables import side_tables
from lora_dist.reporting.words import one_line

_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
_LEADING = re.compile(r"^(?=[#+\-=]+(\s|$))|(?<=^\d)(?=[.)]\s)")  # what would open a heading or a list in a bullet
_LONGEST_TEXT = 2000


def markdown(comparison: Comparison, plots: Sequence[Plot]) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    title = ", ".join(source.name for source in comparison.sources)
    parts = [f"# {escape(title)}"]
    for headline in headlines(comparison):
        parts += [f"**{escape(headline.title)}**", _bullets(headline.sentences)]
    if comparison.finished:
        parts += ["## Comparison", *_tables(comparison)]
    for side in side_tables(comparison):
        parts += [f"## {escape(side.title)}", _side_table(side)]
    if comparison.notes:
        parts.append(_bullets(comparison.notes))
    if comparison.unfinished:
        parts += ["## Not finished", _unfinished(comparison.unfinished)]
    if plots:
        parts += ["## Plots", *(f"![{escape(plot.title)}]({plot.file_name})" for plot in plots)]
    for heading, group in groups_of(comparison):
        parts += _samples(heading, group)
    parts += ["## How it was measured", *map(escape, method_words(comparison)), escape(COSTS)]
    for heading, group in groups_of(comparison):
        parts += [f"### {escape(heading)}"] if heading else []
        parts.append(_facts(facts(group)))
    if comparison.finished:
        parts += ["### Machine and versions", _facts(environment_facts(comparison.finished))]
    parts += ["## How to reproduce", _fenced("\n".join(commands(comparison)))]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: object) -> str:
    """`text` on one line, every sign that Markdown or HTML would read as markup made literal."""
    line = one_line(text, limit=_LONGEST_TEXT)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LEADING.sub(r"\\", _SPECIAL.sub(r"\\\1", line))


def _tables(comparison: Comparison) -> list[str]:
    columns = columns_for(comparison)
    parts: list[str] = []
    for heading, group in groups_of(comparison):
        lines = [
            [column.title for column in columns],
            ["---:" if column.numeric else "---" for column in columns],
            *([_cell(column.cell(row)) for column in columns] for row in group.rows),
        ]
        parts += [f"### {escape(heading)}"] if heading else []
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return parts


def _side_table(side: SideTable) -> str:
    numbers = len(side.headings) - side.texts
    lines = [f"| {' | '.join(map(escape, side.headings))} |", f"|{' --- |' * side.texts}{' ---: |' * numbers}"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in side.rows]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    return "<br>".join(escape(line) for line in (*cell.lines, cell.verdict) if line)


def _unfinished(rows: Sequence[Row]) -> str:
    lines = ["| run | state | why | log |", "| --- | --- | --- | --- |"]
    for row in rows:
        why = escape(row.at.reason or row.at.doing)
        lines.append(f"| {escape(row.name)} | {row.at.state} | {why} | {escape(row.at.log or '')} |")
    return "\n".join(lines)


def _samples(heading: str, group: Group) -> list[str]:
    samples = read_samples(group)
    if not samples:
        return []
    parts = [f"## Side by side{escape(f' ({heading})' if heading else '')}"]
    for number, sample in enumerate(samples, start=1):
        what, reference = sample.headings
        parts += [f"**{what} {number}**", _fenced(sample.prompt), reference, _fenced(sample.reference)]
        for name, continuation in sample.continuations:
            parts += [escape(name), _fenced(continuation)]
    return parts


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks in the text, so that the text cannot end it."""
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]}... ({len(text) - _LONGEST_TEXT:,} more characters)"
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _facts(found: Sequence[Fact]) -> str:
    return _bullets([f"{what}: {value}" for what, value in found])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)
