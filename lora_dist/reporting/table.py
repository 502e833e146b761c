"""The comparison and the unfinished runs as rich tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lora_dist.reporting.cells import Cell, Column, SideTable, columns_for, groups_of
from lora_dist.reporting.headline import headlines
from lora_dist.reporting.rows import NO_DIFFERENCE, Comparison, Row
from lora_dist.reporting.side_tables import side_tables
from lora_dist.reporting.words import one_line, state_style

STYLES = {"better": "green", "worse": "red", NO_DIFFERENCE: "dim"}
_VERDICT_WIDTHS = (len(NO_DIFFERENCE), 15)  # in one line; where that is too wide, in two
_ALWAYS_KEPT = 9


def comparison_view(comparison: Comparison, width: int = 120) -> RenderableType:
    """Everything the terminal shows: the answer, the table, the unfinished runs and the notes."""
    parts: list[RenderableType] = []
    for headline in headlines(comparison):
        parts += [
            Text(headline.title, style="bold"),
            *(Padding(Text(line), (0, 0, 0, 2)) for line in headline.sentences),
            Text(),
        ]
    if comparison.finished:
        parts.append(comparison_table(comparison, width))
    for side in side_tables(comparison):
        parts += [Text(), _side_table(side, width)]
    if comparison.unfinished:
        parts += [Text(), unfinished_table(comparison.unfinished)]
    if comparison.notes:
        parts += [Text(), *(Text(f"* {one_line(note, limit=2000)}", style="dim") for note in comparison.notes)]
    return Group(*parts)


def comparison_table(comparison: Comparison, width: int = 120) -> Table:
    """The finished rows, group by group, in as many columns as fit into `width` characters.

    Perplexities stand over their 95% intervals; differences are paired over the test rows.
    """
    columns = columns_for(comparison)
    while True:
        for verdict_width in _VERDICT_WIDTHS:
            table = _table(comparison, columns, verdict_width)
            if _width(table) <= width:
                return table
        droppable = [column for column in columns if column.worth < _ALWAYS_KEPT]
        if not droppable:
            return table
        columns.remove(min(droppable, key=lambda column: column.worth))


def unfinished_table(rows: Sequence[Row]) -> Table:
    """The runs without a record: their state, why, and where the log is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Not finished", title_justify="left", title_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("why, and its log", overflow="fold", ratio=1)
    for row in rows:
        log = str(row.at.log or "")
        why = "\n".join(part for part in (one_line(row.at.reason or row.at.doing, limit=300), log) if part)
        table.add_row(Text(row.name), Text(row.at.state, style=state_style(row.at.state)), Text(why))
    return table


def _side_table(side: SideTable, width: int) -> Table:
    """The table in as many columns as fit into `width` characters."""
    table = _laid_out(side)
    while _width(table) > width and min(side.worths, default=_ALWAYS_KEPT) < _ALWAYS_KEPT:
        side = side.without(side.worths.index(min(side.worths)))
        table = _laid_out(side)
    return table


def _laid_out(side: SideTable) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=side.title, title_justify="left", title_style="bold")
    for number, heading in enumerate(side.headings):
        table.add_column(heading, justify="left" if number < side.texts else "right", overflow="fold")
    for index, row in enumerate(side.rows):
        cells = (_text(cell, numeric=number > 0) for number, cell in enumerate(row))
        table.add_row(*cells, end_section=index in side.ends)
    return table


def _table(comparison: Comparison, columns: Sequence[Column], verdict_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.numeric else "left",
            max_width=verdict_width if column.title.startswith("vs ") else None,
            overflow="fold",
        )
    for heading, group in groups_of(comparison):
        if heading:
            table.add_row(Text(heading, style="bold"))
        for row in group.rows:
            table.add_row(*(_text(column.cell(row), numeric=column.numeric) for column in columns))
        table.add_section()
    return table


def _text(cell: Cell, *, numeric: bool) -> Text:
    first, *rest = cell.lines
    text = Text(one_line(first), style=STYLES.get(cell.verdict, "" if numeric else "bold"))
    if cell.verdict == NO_DIFFERENCE:
        rest.append(cell.verdict)
    elif cell.verdict:
        text.append(f" {cell.verdict}")
    for line in rest:
        text.append(f"\n{one_line(line)}", style="dim not bold")
    return text


def _width(table: Table) -> int:
    """The width that the table takes when nothing in it is squeezed."""
    console = Console(width=1000)
    return Measurement.get(console, console.options, table).maximum
