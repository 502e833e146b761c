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
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lora_dist.errors import Interrupted, WorkerCrashed

TICK_S = 0.1
TIDY_S = 2.0
"""So long a child that is to end may take to remove what it has half written."""
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
    """A process with the stack imported, started on first use and stopped with the block it is used in.

    Args:
        environment: variables that it and its children have: those that the stack reads when it is imported.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
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

    def start(
        self, action: str, arguments: dict[str, Any], *, log: Path | None, environment: Mapping[str, str] | None = None
    ) -> int:
        """Perform `action` in a child; returns the number by which `poll` and `signal` know it.

        Args:
            environment: variables that are set in the child, before it opens a device.
        Raises:
            WorkerCrashed: the nursery itself died.
        """
        self._start()
        number = next(self._ids)
        request = {"id": number, "action": action, "arguments": arguments, "log": str(log) if log else None}
        self._tell(request | {"environment": dict(environment or {})})
        return number

    def signal(self, number: int, what: signal.Signals) -> None:
        """Send a signal to a child; one that has ended hears nothing."""
        self._tell({"id": number, "signal": int(what)})

    def poll(self, seconds: float = TICK_S) -> list[tuple[int, Ended]]:
        """The children that have ended, waiting up to `seconds` for one.

        Raises:
            WorkerCrashed: the nursery itself died.
        """
        ended = []
        for event in self._events(seconds):
            if event["event"] == "ready":
                self._is_ready = True
            else:
                ended.append((event["id"], Ended(event["code"], event["signal"])))
        return ended

    def run(self, action: str, arguments: dict[str, Any], *, log: Path | None, tick: Tick) -> Ended:
        """Perform `action` in a child and wait for its end, calling `tick` about every 0.1 s.

        Raises:
            Interrupted: `tick` did; the child has had a moment to tidy up.
            WorkerCrashed: the nursery itself died.
        """
        number = self.start(action, arguments, log=log)
        try:
            while True:
                tick()
                if (ended := self._ended(number)) is not None:
                    return ended
        except Interrupted:
            self._ask_to_end(number)
            raise

    def _ended(self, number: int) -> Ended | None:
        return next((ended for other, ended in self.poll() if other == number), None)

    def _ask_to_end(self, number: int) -> None:
        if not self._is_ready:
            return
        self.signal(number, signal.SIGTERM)
        deadline = time.monotonic() + TIDY_S
        while self._ended(number) is None and time.monotonic() < deadline:
            pass

    def _start(self) -> None:
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lora_dist.dispatch.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Asking NVML whether there is a GPU leaves CUDA untouched, so that children may use it after a fork.
            env={**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1", **self._environment},
            start_new_session=True,  # a terminal's Ctrl-C is for this process to hear, and to pass on once
        )

    def _tell(self, request: dict[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _events(self, seconds: float) -> list[dict[str, Any]]:
        answers = self._process.stdout.fileno()
        if not select.select([answers], [], [], seconds)[0]:
            return []
        data = os.read(answers, 65536)
        if not data:
            raise self._died()
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _died(self) -> WorkerCrashed:
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()
        return WorkerCrashed(f"the process that starts runs died: {said[-2000:] or 'it said nothing'}")
