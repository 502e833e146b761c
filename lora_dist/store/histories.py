"""What the ledger says about each run: its attempts, how far they came, and how they ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_dist.store.ledger import ENDED, NOT_REQUEUED, REQUEUED, RESUMED, STARTED
from lora_dist.store.lines import read_lines


@dataclass
class Attempt:
    """One try at a run."""

    started: float = 0.0
    """Seconds since the epoch."""
    job: str = ""
    """The job that it ran in: 123, or 123_4; empty outside of a cluster."""
    restart: int = 0
    """How often the cluster had started that job before."""
    nodes: str = ""
    """As SLURM writes a list of machines: gpu[03-05]."""
    gpus: int | None = None
    """Over all machines; None where the ledger does not say."""
    ranks: int = 1
    """Processes that worked on it together."""
    first_step: int = 0
    """The step of the checkpoint that it went on from; 0 when it began anew."""
    has_resumed: bool = False
    end: dict[str, Any] = field(default_factory=dict)
    """The event of its end; empty while it has none."""
    requeued: dict[str, Any] = field(default_factory=dict)
    """The event by which its job went back into the queue; empty unless it did."""
    not_requeued: str = ""
    """Why its job did not go back into the queue, though it was to."""

    @property
    def outcome(self) -> str:
        """completed, refused, interrupted, failed or lost; empty while it has not ended."""
        return str(self.end.get("outcome") or ("ended" if self.end else ""))

    @property
    def seconds(self) -> float:
        """Wall-clock seconds, where its end is known; otherwise 0."""
        return float(self.end.get("seconds") or 0.0)


@dataclass
class History:
    """All attempts at one run, oldest first."""

    attempts: list[Attempt] = field(default_factory=list)
    ended_seconds: float = 0.0
    """Wall-clock seconds of all ended attempts."""

    @property
    def last(self) -> Attempt:
        """The newest attempt; an empty one when there is none."""
        return self.attempts[-1] if self.attempts else Attempt()

    @property
    def device_seconds(self) -> float:
        """Seconds times ranks, of all ended attempts."""
        return sum(attempt.seconds * attempt.ranks for attempt in self.attempts)


def history_of(ledger: Path, run_id: str) -> History:
    """The history of one run; an empty one when the ledger does not know it."""
    return histories_in(read_lines(ledger)).get(run_id, History())


def histories_in(events: Iterable[dict[str, Any]]) -> dict[str, History]:
    """The history of every run among these events, by its id."""
    histories: dict[str, History] = {}
    for event in events:
        if event.get("run"):
            _enter(histories.setdefault(str(event["run"]), History()), event)
    return histories


def _enter(history: History, event: dict[str, Any]) -> None:
    what = event.get("event")
    if what == STARTED:
        history.attempts.append(_begun(event))
        return
    if what == ENDED:
        history.ended_seconds += event.get("seconds") or 0.0
    if not history.attempts:
        return
    last = history.attempts[-1]
    if what == ENDED:
        last.end = event
    elif what == RESUMED:
        last.first_step, last.has_resumed = int(event.get("step") or 0), True
    elif what == REQUEUED:
        last.requeued = event
    elif what == NOT_REQUEUED:
        last.requeued, last.not_requeued = {}, str(event.get("why") or "")


def _begun(event: dict[str, Any]) -> Attempt:
    gpus, ranks = event.get("gpus"), event.get("ranks")
    return Attempt(
        started=float(event.get("time") or 0.0),
        job=str(event.get("job") or ""),
        restart=int(event.get("restart") or 0),
        nodes=str(event.get("nodes") or ""),
        gpus=gpus if isinstance(gpus, int) else None,
        ranks=ranks if isinstance(ranks, int) else 1,
    )
