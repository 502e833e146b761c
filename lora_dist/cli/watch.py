"""status --watch: the table, drawn anew as the runs go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.live import Live

from lora_dist.cli.output import status_view, stdout
from lora_dist.errors import Interrupted
from lora_dist.reporting.status_table import most_lively_first, status_line

if TYPE_CHECKING:
    from lora_dist.verbs.status import Look


def follow(looks: Iterator[Look]) -> Look:
    """Show each look until they end, and return the last one. Without a terminal, the counts whenever they change.

    Raises:
        Interrupted: by Ctrl-C. What runs is not touched.
    """
    try:
        return _on_screen(looks) if stdout.is_terminal else _in_lines(looks)
    except KeyboardInterrupt:
        raise Interrupted("no longer watching; what runs goes on") from None


def _on_screen(looks: Iterator[Look]) -> Look:
    look = next(looks)
    with Live(console=stdout, auto_refresh=False, transient=True, vertical_overflow="ellipsis") as live:
        while not look.is_settled:
            live.update(status_view(replace(look, rows=most_lively_first(look.rows))), refresh=True)
            look = next(looks)
    return look


def _in_lines(looks: Iterator[Look]) -> Look:
    told = ""
    for look in looks:
        line = status_line(look.rows)
        if line != told:
            stdout.print(line, markup=False, highlight=False, soft_wrap=True)
            told = line
    return look
