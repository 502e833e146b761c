"""One worker per run: an exclusive lock that names its owner and dies with it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_dist.errors import LoraDistError
from lora_dist.store.atomic import storage_errors

_PATIENCE_S, _TRIES = 0.1, 5


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    host: str
    pid: int
    since: float

    def __str__(self) -> str:
        started = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {started}"


class Held(LoraDistError):
    """Somebody else holds the lock; `owner` says who, where the file could be read."""

    def __init__(self, path: Path, owner: Owner | None) -> None:
        self.owner = owner
        self.path = path
        super().__init__(f"{path} is held by {owner or 'another process'}")

    def __reduce__(self):
        return (Held, (self.path, self.owner))


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` while the block runs. The kernel frees it when its owner dies.

    Raises:
        Held: another process has it.
        StorageError: the file cannot be made, or the disk is full.
    """
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(handle, path)
        owner = Owner(socket.gethostname(), os.getpid(), time.time())
        with storage_errors(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(asdict(owner)).encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(handle: int, path: Path) -> None:
    """Lock, with some patience: who only asks for the holder has the lock for a moment too."""
    for patience_left in reversed(range(_TRIES)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not patience_left:
                raise Held(path, read_owner(path)) from None
            time.sleep(_PATIENCE_S / _TRIES)
        else:
            return


def holder(path: Path) -> Owner | None:
    """Who holds the lock at `path` now, or None when it is free."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_owner(path) or Owner("an unknown host", 0, time.time())
    else:
        return None
    finally:
        os.close(handle)


def read_owner(path: Path) -> Owner | None:
    """Who wrote itself into the lock file, or None while the file is empty."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
