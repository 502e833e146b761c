"""The nursery seen from outside: start it, give it a job, wait for the job's end."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lora_dist.errors import WorkerCrashed

TICK_S = 0.1
TAKEN = 75
"""Exit code of a child that found its run held by another process (EX_TEMPFAIL of sysexits.h)."""
Tick = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a child ended: with an exit code, or killed by a signal."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.code}"
        hint = "; the machine may have run out of memory" if self.signal == signal.SIGKILL else ""
        return f"killed by {signal.Signals(self.signal).name}{hint}"


class Nursery:
    """A process with the stack imported, started on first use and stopped with the block it is used in."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._ids = itertools.count(1)
        self._unread = b""
        self._is_ready = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the nursery and kill what it still runs. Closing twice does no harm."""
        process, self._process = self._process, None
        if process is not None:
            process.stdin.close()  # which is its sign to kill its children and leave
            if not self._is_ready:  # it has no children yet, and hears nothing while it imports
                process.kill()
            process.wait()
            process.stdout.close()
        self._stderr.close()

    def run(self, action: str, arguments: dict[str, Any], *, log: Path | None, tick: Tick) -> Ended:
        """Perform `action` in a child and wait for its end, calling `tick` about every 0.1 s.

        Raises:
            WorkerCrashed: the nursery itself died.
        """
        self._start(tick)
        number = next(self._ids)
        request = {"id": number, "action": action, "arguments": arguments, "log": str(log) if log else None}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        event = self._wait(lambda event: event.get("id") == number, tick)
        return Ended(event["code"], event["signal"])

    def _start(self, tick: Tick) -> None:
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lora_dist.dispatch.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Asking NVML whether there is a GPU leaves CUDA untouched, so that children may use it after a fork.
            env={**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        )
        self._wait(lambda event: event["event"] == "ready", tick)
        self._is_ready = True

    def _wait(self, wanted: Callable[[dict[str, Any]], bool], tick: Tick) -> dict[str, Any]:
        answers = self._process.stdout.fileno()
        while True:
            tick()
            if not select.select([answers], [], [], TICK_S)[0]:
                continue
            data = os.read(answers, 65536)
            if not data:
                self._stderr.seek(0)
                said = self._stderr.read().decode(errors="replace").strip()
                raise WorkerCrashed(f"the process that starts runs died: {said[-2000:] or 'it said nothing'}")
            *lines, self._unread = (self._unread + data).split(b"\n")
            for event in map(json.loads, lines):
                if wanted(event):
                    return event
