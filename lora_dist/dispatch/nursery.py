"""The nursery: a process that imports the stack once and forks a child for every job.

It computes nothing itself, so its children start from a clean state: no threads, no CUDA context. It reads one JSON
request per line and answers one line per event:

    in   {"id": 1, "action": "work_on", "arguments": {...}, "log": "/path" or null, "environment": {...}}
    in   {"id": 1, "signal": 15}
    out  {"event": "ready"}   {"event": "ended", "id": 1, "code": 0, "signal": null}

When its input closes, which is what happens when the process that started it dies in whatever way, it kills its
children and leaves: no run goes on unseen, and no lock stays held.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from lora_dist.dispatch.preload import preload
from lora_dist.team import die_with_parent

POLL_S = 0.05


def serve(requests: int, answers: int) -> None:
    """Fork a child for each request that comes in on the file descriptor `requests`, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    preload()
    _tell(answers, {"event": "ready"})
    children: dict[int, int] = {}
    waiting = b""
    try:
        while True:
            if select.select([requests], [], [], POLL_S)[0]:
                data = os.read(requests, 65536)
                if not data:
                    return
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    _take(json.loads(line), children, (requests, answers))
            for pid, code, killed_by in _ended(children):
                _tell(answers, {"event": "ended", "id": children.pop(pid), "code": code, "signal": killed_by})
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _take(request: dict[str, Any], children: dict[int, int], close: tuple[int, int]) -> None:
    """Start a child, or signal one: only who reaps the children knows that a pid is still theirs."""
    if "signal" not in request:
        children[_fork(request, close)] = request["id"]
        return
    for pid, number in children.items():
        if number == request["id"]:
            os.kill(pid, request["signal"])


def _fork(request: dict[str, Any], close: tuple[int, int]) -> int:
    """Start a child for one request; returns its pid."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:  # never return into the server's loop
        for handle in close:
            os.close(handle)
        die_with_parent()
        if os.getppid() != parent:  # it died before it could be asked
            os._exit(1)
        _redirect(request["log"])
        os.environ.update(request["environment"])
        from lora_dist.dispatch.actions import perform  # in sys.modules already, unless there is a GPU

        code = perform(request["action"], request["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: str | None) -> None:
    """Send what the child prints to its log, and its log only."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if log is not None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)


def _ended(children: dict[int, int]) -> list[tuple[int, int | None, int | None]]:
    """(pid, exit code, signal) of each child that has ended since the last look."""
    ended = []
    for pid in list(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            ended.append((pid, None if killed_by else os.waitstatus_to_exitcode(status), killed_by))
    return ended


def _tell(answers: int, event: dict[str, Any]) -> None:
    os.write(answers, json.dumps(event).encode() + b"\n")


def main() -> None:
    """Serve on copies of stdin and stdout; what libraries print while they are imported goes to stderr."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    requests, answers = os.dup(0), os.dup(1)
    with Path(os.devnull).open() as null:
        os.dup2(null.fileno(), 0)
    os.dup2(2, 1)
    serve(requests, answers)


if __name__ == "__main__":
    main()
