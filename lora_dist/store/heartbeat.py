"""How far a worker is: a small file that it rewrites as it goes, and that anybody may read."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

INTERVAL_S = 0.2


@dataclass(frozen=True)
class Beat:
    """One moment of a worker."""

    stage: str
    done: int
    total: int
    """0 while it is not known."""
    text: str
    time: float
    """Seconds since the epoch."""
    attempt_started: float
    pid: int


class Heartbeat:
    """Writes beats to `path`, at most every `INTERVAL_S` unless the stage changes. A lost beat costs nothing,
    so they are renamed into place but not flushed to the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = time.time()
        self._last = ("", 0.0)

    def __call__(self, stage: str, done: int = 0, total: int = 0, text: str = "") -> None:
        """Say what is being done now: `done` of `total` of `stage`."""
        now = time.time()
        if stage == self._last[0] and done < total and now - self._last[1] < INTERVAL_S:
            return
        self._last = (stage, now)
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a full disk is told by what has to be written
            aside.write_text(json.dumps(asdict(Beat(stage, done, total, text, now, self._started, os.getpid()))))
            aside.replace(self.path)


def read_beat(path: Path) -> Beat | None:
    """The newest beat, or None before the first."""
    try:
        return Beat(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
