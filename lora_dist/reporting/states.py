"""Where each run of an experiment stands, from its folder and the ledger alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_dist.config.experiment import Run
from lora_dist.errors import StorageError
from lora_dist.store.folders import OUTCOMES, ExperimentFolder, RunFolder
from lora_dist.store.heartbeat import Beat, read_beat
from lora_dist.store.ledger import ENDED, STARTED
from lora_dist.store.lines import read_lines
from lora_dist.store.lock import holder, read_owner
from lora_dist.store.record import Record

State = Literal["waiting", "running", "completed", "failed", "refused", "interrupted", "stale"]


@dataclass(frozen=True)
class RunState:
    """Where one run stands."""

    folder: RunFolder
    state: State
    reason: str = ""
    """Why it stands there, in a line; empty for a run that waits, runs or is complete."""
    record: Record | None = None
    beat: Beat | None = None
    """How far the worker is; only while it runs."""
    attempts: int = 0
    seconds: float = 0.0
    """Wall-clock seconds of all attempts, with the one that runs."""

    @property
    def doing(self) -> str:
        """What a running worker is at: train 40/90; empty when nothing runs."""
        return _told(self.beat) if self.beat else ""

    @property
    def log(self) -> Path | None:
        """What the worker printed, or None when it has printed nothing."""
        return self.folder.log if self.folder.log.is_file() else None


@dataclass
class _History:
    """What the ledger says about one run."""

    attempts: int = 0
    seconds: float = 0.0
    started: float = 0.0
    ended: dict[str, Any] = field(default_factory=dict)
    """The end of the newest attempt; empty while it has none."""


def run_states(folder: ExperimentFolder, runs: Sequence[Run]) -> list[RunState]:
    """The state of every run, in their order. The ledger is read once, however many runs there are."""
    histories = _read_histories(folder.ledger)
    ids = [run.id for run in runs]  # a hash each: worth taking once
    return [_state_of(folder.run(run_id), histories.get(run_id, _History())) for run_id in ids]


def _read_histories(ledger: Path) -> dict[str, _History]:
    histories: dict[str, _History] = {}
    for event in read_lines(ledger):
        history = histories.setdefault(str(event.get("run")), _History())
        if event.get("event") == STARTED:
            history.attempts += 1
            history.started, history.ended = event.get("time", 0.0), {}
        elif event.get("event") == ENDED:
            history.seconds += event.get("seconds", 0.0)
            history.ended = event
    return histories


def _state_of(folder: RunFolder, history: _History) -> RunState:
    known: dict[str, Any] = {"attempts": history.attempts, "seconds": history.seconds}
    # holder() takes the lock for a moment; asking only where an owner wrote itself down keeps that from getting in
    # the way of a worker that is just starting.
    if read_owner(folder.lock) and holder(folder.lock):
        beat = read_beat(folder.heartbeat)
        since = beat.attempt_started if beat else history.started
        known["seconds"] += max(0.0, time.time() - since) if since else 0.0
        return RunState(folder, "running", beat=beat, **known)
    try:
        record = folder.read_record()
    except StorageError as error:
        return RunState(folder, "failed", str(error), **known)
    if record:
        return RunState(folder, "completed", record=record, **known)
    # A worker removes the outcome of the attempt before; one that cannot write there has the ledger's word for it.
    outcome = folder.read_outcome() or (history.ended if history.ended.get("outcome") in OUTCOMES else None)
    if outcome is None:
        return _without_outcome(folder, history, known)
    if outcome["outcome"] == "completed":
        return RunState(folder, "waiting", _unmeasured(folder), **known)
    return RunState(folder, outcome["outcome"], str(outcome.get("message") or ""), **known)


def _unmeasured(folder: RunFolder) -> str:
    """Why a run that ended well has no record."""
    if folder.pruned.is_dir() and not folder.scores.is_dir():
        return "pruned, and not yet measured"
    return "its record is gone: it will be measured again"


def _without_outcome(folder: RunFolder, history: _History, known: dict[str, Any]) -> RunState:
    """A run that has not started, or whose newest attempt was killed before it could say anything."""
    if not history.attempts:
        return RunState(folder, "waiting", **known)
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(history.started))
    reason = f"started {started}, then ended without saying why (killed?)"
    beat = read_beat(folder.heartbeat)
    if beat:
        reason += f"; last seen in {_told(beat)}"
        known["seconds"] += 0.0 if history.ended else max(0.0, beat.time - beat.attempt_started)
    return RunState(folder, "stale", reason, **known)


def _told(beat: Beat) -> str:
    return f"{beat.stage} {beat.done:,}/{beat.total:,}" if beat.total else beat.stage
