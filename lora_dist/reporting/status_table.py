"""Where the runs of an experiment stand, for `lora-dist status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from lora_dist.reporting.words import NOTHING, duration, one_line, state_style
from lora_dist.store.failures import FailureReport
from lora_dist.store.states import RunState

_ORDER = (
    "running", "pending", "unknown", "waiting", "failed", "refused", "lost", "interrupted", "cancelled",
    "stale", "completed",
)  # fmt: skip
FAILED = frozenset({"failed", "refused", "stale", "lost"})
"""States of runs that have failed: somebody has to look."""


@dataclass(frozen=True)
class ClusterFacts:
    """What is known of a run beyond its folder, because a cluster's jobs do it."""

    job: str
    """123, or 123_4 for an element of an array; empty while it has none."""
    scheduler_state: str
    """SLURM's own word: PENDING, RUNNING, NODE_FAIL, ..."""
    scheduler_reason: str
    """Why it waits or ended, in SLURM's word."""
    nodes: str
    time_left_s: float | None
    """Seconds until the job's time limit; None unless it runs under one."""
    gpu_hours_useful: float
    gpu_hours_lost: float
    """GPUs x hours that came to nothing; see docs/launching.md."""
    cause: str
    """Of a run that did not end well, in a word: preempted, timeout, node_fail, out_of_memory, cancelled, ..."""
    action: str
    """What there is to do: wait, submit, resume, retry, retry_elsewhere, mend; empty when nothing is."""
    next: str
    """The command that does it; empty where none does."""


@dataclass(frozen=True)
class StatusRow:
    """One run: where it stands, and where to look."""

    run: str
    """The run's id."""
    label: str
    state: str
    """As in the counts of `status_line`."""
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
    cluster: ClusterFacts | None = None
    """None in an experiment that no job was submitted for."""
    failure: FailureReport | None = None
    """Of a run that a cluster's job did not bring to its end, once its logs have been read; see `has_failed`."""

    @property
    def has_failed(self) -> bool:
        """Whether somebody has to look at what its job left behind: it has failed, or its node has."""
        return self.cluster is not None and (self.state in FAILED or self.cluster.cause == "node_fail")

    @property
    def needs_somebody(self) -> bool:
        """Whether it goes on only when somebody types something."""
        return self.state in FAILED or self.state in ("interrupted", "cancelled")

    def document(self) -> dict[str, Any]:
        """The row for JSON; `cluster` is there only where jobs were submitted, `failure` only where there is one."""
        document = vars(self) | {"log": str(self.log) if self.log else None}
        if self.cluster is None:
            del document["cluster"]
        else:
            document["cluster"] = vars(self.cluster)
        if self.failure is None:
            del document["failure"]
        else:
            document["failure"] = self.failure.document()
        return document


def most_lively_first(rows: Sequence[StatusRow]) -> list[StatusRow]:
    """The rows in the order of what may change soonest: what is cut off at the end of a screen is settled."""
    return sorted(rows, key=lambda row: _ORDER.index(row.state))


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


def row_of(label: str, at: RunState) -> StatusRow:
    """A run as its folder and the ledger tell of it."""
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
