"""Where each run of an experiment stands, from its folder and the ledger alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_dist.errors import StorageError
from lora_dist.store.folders import OUTCOMES, ExperimentFolder, RunFolder
from lora_dist.store.heartbeat import Beat, read_beat
from lora_dist.store.histories import History, histories_in
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
    cause: str = ""
    """The reason in a word, where who wrote the outcome knew one: out_of_memory."""
    record: Record | None = None
    beat: Beat | None = None
    """How far the worker is; only while it runs."""
    last_beat: Beat | None = None
    """The last word of a worker that is not known to run: it was killed, or runs where its lock cannot be seen."""
    history: History = field(default_factory=History)
    """What the ledger says of its attempts."""
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


def run_states(
    folder: ExperimentFolder, run_ids: Sequence[str], histories: Mapping[str, History] | None = None
) -> list[RunState]:
    """The state of every run, in their order.

    Args:
        histories: what the ledger says, for who has read it already; it is read once, however many runs there are.
    """
    known = histories_in(read_lines(folder.ledger)) if histories is None else histories
    return [_state_of(folder.run(run_id), known.get(run_id, History())) for run_id in run_ids]


def _state_of(folder: RunFolder, history: History) -> RunState:
    known: dict[str, Any] = {"attempts": len(history.attempts), "seconds": history.ended_seconds, "history": history}
    # holder() takes the lock for a moment; asking only where an owner wrote itself down keeps that from getting in
    # the way of a worker that is just starting.
    if read_owner(folder.lock) and holder(folder.lock):
        beat = read_beat(folder.heartbeat)
        since = beat.attempt_started if beat else history.last.started
        known["seconds"] += max(0.0, time.time() - since) if since else 0.0
        return RunState(folder, "running", beat=beat, **known)
    try:
        record = folder.read_record()
    except StorageError as error:
        return RunState(folder, "failed", str(error), **known)
    if record:
        return RunState(folder, "completed", record=record, **known)
    # A worker removes the outcome of the attempt before; one that cannot write there has the ledger's word for it.
    outcome = folder.read_outcome() or (history.last.end if history.last.outcome in OUTCOMES else None)
    if outcome is None:
        return _without_outcome(folder, history, known)
    if outcome["outcome"] == "completed":
        return RunState(folder, "waiting", _unmeasured(folder), **known)
    reason, cause = str(outcome.get("message") or ""), str(outcome.get("cause") or "")
    return RunState(folder, outcome["outcome"], reason, cause, **known)


def _unmeasured(folder: RunFolder) -> str:
    """Why a run that ended well has no record."""
    if not folder.scores.is_dir():
        if folder.training.exists():
            return "trained, and not yet measured"
        if folder.pruned.is_dir():
            return "pruned, and not yet measured"
    return "its record is gone: it will be measured again"


def _without_outcome(folder: RunFolder, history: History, known: dict[str, Any]) -> RunState:
    """A run that has not started, or whose newest attempt was killed before it could say anything."""
    if not history.attempts:
        return RunState(folder, "waiting", **known)
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(history.last.started))
    reason = f"started {started}, then ended without saying why (killed?)"
    beat = read_beat(folder.heartbeat)
    if beat:
        reason += f"; last seen in {_told(beat)}"
        known["seconds"] += 0.0 if history.last.end else max(0.0, beat.time - beat.attempt_started)
    return RunState(folder, "stale", reason, last_beat=beat, **known)


def _told(beat: Beat) -> str:
    return f"{beat.stage} {beat.done:,}/{beat.total:,}" if beat.total else beat.stage
