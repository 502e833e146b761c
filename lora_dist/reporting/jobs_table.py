"""The runs that a cluster's jobs do, for `lora-dist status`: one line each, however many there are.

Written line by line: a table of rich's takes more than a second for 2,000 rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from lora_dist.reporting.status_table import StatusRow, status_line
from lora_dist.reporting.words import NOTHING, duration, one_line, state_style
from lora_dist.store.attempts import LESS_MEMORY, OUT_OF_MEMORY_CAUSE
from lora_dist.store.failures import FailureReport

_TITLES = ("run", "stage", "state", "step", "time left", "attempts", "GPU-h useful", "lost", "node", "reason")
_RIGHT = (3, 4, 5, 6, 7)  # numbers
_STATE = 2
_WIDEST = {0: 40, 8: 24}  # longer names are cut; the JSON has them whole
_GAP = "  "
TOLD_OF = 10
"""So many of the runs that need somebody are told of under the table, with log and next command."""
_LAST_LINES = 6


@dataclass(frozen=True)
class JobsTable:
    """Rows under their titles, the counts, and what to do about the runs that did not end well."""

    rows: Sequence[StatusRow]
    notes: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [_cells(row) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(_TITLES, *cells, strict=True)]
        # A terminal shows one line per run; a file or a pipe gets every word.
        width = options.max_width if console.is_terminal else 10**6
        yield from _line(_TITLES, widths, width, Style(bold=True), None)
        for row, line in zip(self.rows, cells, strict=True):
            yield from _line(line, widths, width, None, Style.parse(state_style(row.state)))
        yield from _plain([status_line(self.rows), *_gpu_hours(self.rows), *self.notes])
        yield from _plain(to_do(self.rows))


def _cells(row: StatusRow) -> list[str]:
    facts = row.cluster
    cells = [
        row.label if row.label.isprintable() else one_line(row.label),
        row.stage or NOTHING,
        row.state,
        f"{row.done:,}/{row.total:,}" if row.total else NOTHING,
        duration(facts.time_left_s) if facts and facts.time_left_s is not None else NOTHING,
        str(row.attempts) if row.attempts else NOTHING,
        _hours(facts.gpu_hours_useful if facts else 0.0),
        _hours(facts.gpu_hours_lost if facts else 0.0),
        (facts.nodes if facts else "") or NOTHING,
        one_line(row.reason) if row.reason else "",
    ]
    for index, widest in _WIDEST.items():
        if len(cells[index]) > widest:
            cells[index] = cells[index][: widest - 3] + "..."
    return cells


def _hours(hours: float) -> str:
    return f"{hours:,.2f}" if hours else NOTHING


def _line(
    cells: Sequence[str], widths: Sequence[int], width: int, style: Style | None, state_style: Style | None
) -> Iterable[Segment]:
    padded = [
        cell.rjust(size) if index in _RIGHT else cell.ljust(size)
        for index, (cell, size) in enumerate(zip(cells, widths, strict=True))
    ]
    before, state, after = _GAP.join(padded[:_STATE]) + _GAP, padded[_STATE], _GAP.join(["", *padded[_STATE + 1 :]])
    whole = before + state + after
    if len(whole.rstrip()) > width:  # the reason gives way
        after = whole[: max(0, width - 3)][len(before) + len(state) :] + "..."
    yield Segment(before, style)
    yield Segment(state, state_style or style)
    yield Segment(after.rstrip(), style)
    yield Segment.line()


def _plain(lines: Iterable[str]) -> Iterable[Segment]:
    for line in lines:
        yield Segment(line)
        yield Segment.line()


def _gpu_hours(rows: Sequence[StatusRow]) -> list[str]:
    facts = [row.cluster for row in rows if row.cluster]
    useful, lost = sum(one.gpu_hours_useful for one in facts), sum(one.gpu_hours_lost for one in facts)
    return [f"GPU-hours: {useful:,.2f} useful, {lost:,.2f} lost"] if useful or lost else []


def to_do(rows: Sequence[StatusRow]) -> list[str]:
    """Runs that need somebody: why, the last words of the rank that failed first, and what to type."""
    needy = [row for row in rows if row.needs_somebody]
    lines: list[str] = []
    for row in needy[:TOLD_OF]:
        lines.append(f"{one_line(row.label)}: {one_line(row.reason, limit=400) or row.state}")
        lines += _failure(row.failure, row.reason) if row.failure else []
        log = row.failure.log if row.failure else str(row.log or "")
        lines += [f"  log:  {log}"] if log else []
        lines += [f"  next: {row.cluster.next}"] if row.cluster and row.cluster.next else []
    if len(needy) > TOLD_OF:
        lines.append(f"and {len(needy) - TOLD_OF:,} more that did not end well: --json tells of all")
    return lines


def _failure(failure: FailureReport, reason: str) -> list[str]:
    """rank 1 on node2, train 12/450: killed; and what that rank printed last."""
    who = [f"rank {failure.rank}"] if failure.rank is not None else []
    who += [f"on {failure.node}"] if failure.node else []
    at = f"{failure.stage} {failure.step:,}/{failure.steps:,}" if failure.steps else failure.stage
    where = ", ".join(part for part in (" ".join(who), at) if part)
    lines = [f"  {one_line(': '.join(part for part in (where, failure.cause) if part))}"]
    if failure.cause == OUT_OF_MEMORY_CAUSE and LESS_MEMORY not in reason:
        lines.append(f"  fix:  {LESS_MEMORY}")
    return lines + [f"  | {line}" for line in failure.lines[-_LAST_LINES:]]
