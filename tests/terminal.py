"""A command in a terminal of its own, for the tests of what people see and type."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

_PATIENCE_S = 60.0


class Terminal:
    """A command in a terminal of its own: what it shows is read, and keys are typed."""

    def __init__(self, *command: str, cwd: Path, columns: int = 160) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        foreign = ("COLUMNS", "LINES")  # of the terminal of this test session; xdist sets them for its workers
        inherited = {name: value for name, value in os.environ.items() if name not in foreign}
        self.shown = ""
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**inherited, "TERM": "xterm"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal to it
        )  # fmt: skip
        os.close(theirs)

    def shows(self, words: str) -> bool:
        """Wait until it has shown these words."""
        deadline = time.monotonic() + _PATIENCE_S
        while words not in self.shown and time.monotonic() < deadline and self._read():
            pass
        return words in self.shown

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def end(self) -> int:
        """Read on to its end; its exit code."""
        while self._read():
            pass
        code = self.process.wait(_PATIENCE_S)
        os.close(self._ours)
        return code

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], _PATIENCE_S)[0]:
            return False
        try:
            raw = os.read(self._ours, 65536)
        except OSError:  # the other side has gone
            return False
        self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.decode(errors="replace"))
        return bool(raw)
