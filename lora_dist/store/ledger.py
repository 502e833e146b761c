"""The ledger: what was started and what became of it, one JSON line per event, never rewritten."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_dist.store.lines import append_line, read_lines

STARTED, RESUMED, ENDED = "started", "resumed", "ended"


def write_event(ledger: Path, run_id: str, event: str, **facts: Any) -> None:
    """Append one event of a run, with the time and the process that says so."""
    document = {"time": time.time(), "run": run_id, "event": event, "host": socket.gethostname(), "pid": os.getpid()}
    append_line(ledger, document | facts)


@dataclass(frozen=True)
class Attempts:
    """The attempts at one run so far."""

    count: int
    seconds: float
    """Wall-clock seconds of those that are known to have ended."""


def attempts_of(ledger: Path, run_id: str) -> Attempts:
    """How often a run was started, and how long its ended attempts took together."""
    events = [event for event in read_lines(ledger) if event.get("run") == run_id]
    started = sum(event.get("event") == STARTED for event in events)
    return Attempts(started, sum(event.get("seconds", 0.0) for event in events if event.get("event") == ENDED))


def resumed_steps(ledger: Path, run_id: str) -> list[int]:
    """The checkpoints that a run has gone on from, over all its attempts."""
    return [line["step"] for line in read_lines(ledger) if line.get("run") == run_id and line.get("event") == RESUMED]
