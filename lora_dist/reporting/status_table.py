"""Where the runs of an experiment stand, for `lora-dist status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from lora_dist.config.expansion import expand
from lora_dist.config.loading import load_experiment
from lora_dist.reporting.table import state_style
from lora_dist.reporting.words import NOTHING, duration, one_line
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.states import RunState, State, run_states

_ORDER: tuple[State, ...] = ("running", "waiting", "failed", "refused", "interrupted", "stale", "completed")


@dataclass(frozen=True)
class StatusRow:
    """One run: where it stands, and where to look."""

    run: str
    """The run's id."""
    label: str
    state: State
    stage: str
    """What it does now; empty unless it runs."""
    done: int
    total: int
    """0 while it is not known."""
    attempts: int
    seconds: float
    """Wall-clock seconds of all attempts so far."""
    reason: str
    log: Path | None


def status_rows(folder: ExperimentFolder) -> list[StatusRow]:
    """Every run of the folder's experiment.yaml, in its order.

    Raises:
        Refused, ConfigError: experiment.yaml is not an experiment.
    """
    runs = expand(load_experiment(folder.experiment))
    return [
        _row(run.label, state) for run, state in zip(runs, run_states(folder, [run.id for run in runs]), strict=True)
    ]


def status_line(rows: Sequence[StatusRow]) -> str:
    """How many runs are in which state: 1 running, 3 completed."""
    states = Counter(row.state for row in rows)
    return ", ".join(f"{states[state]:,} {state}" for state in _ORDER if states[state]) or "no runs"


def status_table(rows: Sequence[StatusRow]) -> Table:
    """The rows as a table, with the counts under it; reasons and logs stand under the runs that did not end well."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=status_line(rows), caption_justify="left"
    )
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("progress")
    table.add_column("attempts", justify="right")
    table.add_column("time", justify="right")
    table.add_column("why, and its log", overflow="fold")
    for row in rows:
        table.add_row(
            Text(one_line(row.label)),
            Text(row.state, style=state_style(row.state)),
            Text(_progress(row)),
            str(row.attempts) if row.attempts else NOTHING,
            duration(row.seconds or None),
            Text(_why(row)),
        )
    return table


def _row(label: str, at: RunState) -> StatusRow:
    beat = at.beat
    return StatusRow(
        run=at.folder.id,
        label=label,
        state=at.state,
        stage=beat.stage if beat else "",
        done=beat.done if beat else 0,
        total=beat.total if beat else 0,
        attempts=at.attempts,
        seconds=at.seconds,
        reason=at.reason,
        log=at.log,
    )


def _progress(row: StatusRow) -> str:
    return one_line(f"{row.stage} {row.done:,}/{row.total:,}" if row.total else row.stage) or NOTHING


def _why(row: StatusRow) -> str:
    """Reason and log of a run that needs somebody to look; nothing for one that is well."""
    if row.state in ("completed", "waiting", "running"):
        return one_line(row.reason)
    return "\n".join(part for part in (one_line(row.reason), str(row.log or "")) if part)
