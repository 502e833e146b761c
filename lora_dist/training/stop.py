"""The stop flag: a signal to any rank ends the run at the next step boundary, with everything saved.

SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 only set a flag, because a collective save inside a handler of one rank would wait
for the others for ever. The ranks compare their flags where they are together anyway: after each optimizer step, and
after each batch of an evaluation.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lora_dist.errors import Interrupted
from lora_dist.team import Team

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
ONE_STOP_S = 0.5
"""Signals within this time are one: a terminal and a launcher both pass the same Ctrl-C on."""


class StopFlag:
    """Whether this process has been asked to stop.

    Args:
        dies_when_asked_again: a second signal ends the process at once; otherwise `is_urgent` says that it came.
    """

    def __init__(self, *, dies_when_asked_again: bool = True) -> None:
        self.is_urgent = False
        self.signal = 0
        """The first that came, to this process or to another rank; 0 while none has."""
        self._dies = dies_when_asked_again
        self._since: float | None = None
        self._is_ending = False

    @property
    def is_set(self) -> bool:
        """Whether a signal has come."""
        return self._since is not None

    def check(self) -> None:
        """Leave, where this process is alone with its work.

        Raises:
            Interrupted: a signal has come.
        """
        if self.is_set:
            raise Interrupted

    def check_together(self, team: Team) -> None:
        """Leave together with all ranks when any of them has had a signal. Every rank has to call this.

        Raises:
            Interrupted: a signal has come to one of them.
        """
        if self.is_set_anywhere(team):
            raise Interrupted

    def is_set_anywhere(self, team: Team) -> bool:
        """Whether any rank has been asked to stop; all of them then know by what. Every rank has to call this."""
        heard = int(team.highest(self.signal))
        self.signal = self.signal or heard
        return bool(heard)

    def end(self) -> None:
        """From here on signals are ignored: what there is to save is saved, and the process is about to leave."""
        self._is_ending = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the block runs (in the main thread; elsewhere Python hears none)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)  # None: one that was not installed from Python

    @contextmanager
    def named(self) -> Iterator[None]:
        """Say in an `Interrupted` that leaves the block which signal it was."""
        try:
            yield
        except Interrupted as error:
            error.signal = error.signal or self.signal
            raise

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since, self.signal = now, number
        elif now - self._since > ONE_STOP_S and not self._is_ending:
            self.is_urgent = True
            if self._dies:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
