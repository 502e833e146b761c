"""The queue: runs are dealt to slots as these become free, and what became of each is told."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from lora_dist.config.experiment import Run
from lora_dist.dispatch.children import TAKEN, Ended, Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.dispatch.slots import Slot
from lora_dist.errors import Interrupted
from lora_dist.store.attempts import STOPPED, close_lost_attempt
from lora_dist.store.folders import ExperimentFolder, RunFolder
from lora_dist.store.heartbeat import read_beat
from lora_dist.store.lock import holder
from lora_dist.training.stop import StopFlag

WAIT_FOR_OTHERS_S = 1.0


@dataclass
class _Waiting:
    run: Run
    number: int
    not_before: float = 0.0


@dataclass
class _Running:
    run: Run
    number: int
    folder: RunFolder
    slot: Slot
    log_read: int | None
    """Bytes of the log that have been passed on; None where it is for its file only."""


class Queue:
    """Takes up every run that nobody has finished; how each ended is in its folder.

    A run that another process holds is left to it, and looked at again later.
    """

    def __init__(
        self,
        nursery: Nursery,
        runs: Sequence[Run],
        folder: ExperimentFolder,
        slots: Sequence[Slot],
        listener: Listener,
        stop: StopFlag,
    ) -> None:
        self.nursery, self.folder, self.listener, self.stop = nursery, folder, listener, stop
        self.of = len(runs)
        self._waiting = [_Waiting(run, number) for number, run in enumerate(runs, start=1)]
        self._running: dict[int, _Running] = {}
        self._free = list(slots)
        self._told: set[str] = set()

    def work(self) -> None:
        """Until every run has ended.

        Raises:
            Interrupted: this process was asked to stop; its runs have saved and ended.
            WorkerCrashed: the nursery died.
        """
        while self._waiting or self._running:
            if self.stop.is_set:
                self._wind_up()
                raise Interrupted
            self._fill()
            self._listen()

    def _fill(self) -> None:
        """Start what can be started; what is finished or held elsewhere needs no slot."""
        now = time.monotonic()
        for waiting in [item for item in self._waiting if item.not_before <= now]:
            folder = self.folder.run(waiting.run.id)
            if folder.read_record() is not None:
                self._waiting.remove(waiting)
                self.listener.skipped(waiting.run, folder)
            elif owner := holder(folder.lock):
                self._leave_to(waiting, owner)
            elif waiting.run.id in self._told and (ended := folder.read_outcome()):  # its other worker gave it up
                self._waiting.remove(waiting)
                self.listener.ended(waiting.run, folder, ended["outcome"], ended["message"])
            elif self._free:
                self._waiting.remove(waiting)
                self._start(waiting, folder, self._free.pop(0))

    def _leave_to(self, waiting: _Waiting, owner: object) -> None:
        waiting.not_before = time.monotonic() + WAIT_FOR_OTHERS_S
        if waiting.run.id not in self._told:
            self.listener.elsewhere(waiting.run, owner)
            self._told.add(waiting.run.id)

    def _start(self, waiting: _Waiting, folder: RunFolder, slot: Slot) -> None:
        close_lost_attempt(folder)  # an outcome that is found from here on is of this attempt
        folder.heartbeat.unlink(missing_ok=True)
        folder.outcome.unlink(missing_ok=True)
        action, arguments = slot.start(waiting.run, folder)
        self.listener.started(waiting.run, folder, waiting.number, self.of, slot.devices)
        log_read = None
        if command := arguments.get("command"):
            self.listener.launching(waiting.run, command)
            log_read = folder.log.stat().st_size if folder.log.exists() else 0
        number = self.nursery.start(action, arguments, log=folder.log, environment=slot.environment)
        self._running[number] = _Running(waiting.run, waiting.number, folder, slot, log_read)

    def _listen(self) -> None:
        """Hear for a moment how the runs go, and of those that have ended."""
        ended = self.nursery.poll()
        for running in self._running.values():
            self.listener.beat(running.run, read_beat(running.folder.heartbeat))
            self._pass_on_log(running)
        for number, end in ended:
            running = self._running.pop(number)
            self._pass_on_log(running)
            self._free.append(running.slot)
            self._ended(running, end)

    def _pass_on_log(self, running: _Running) -> None:
        """What the ranks of a launched run have printed, by whole lines."""
        if running.log_read is None or not running.folder.log.exists():
            return
        with running.folder.log.open("rb") as file:
            file.seek(running.log_read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        running.log_read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self.listener.logged(running.run, line)

    def _ended(self, running: _Running, end: Ended) -> None:
        folder = running.folder
        outcome = folder.read_outcome()
        if end.code == TAKEN or (outcome is None and holder(folder.lock)):
            self._waiting.append(_Waiting(running.run, running.number, time.monotonic() + WAIT_FOR_OTHERS_S))
            return
        if outcome is None:
            how = (
                ("interrupted", STOPPED) if self.stop.is_set else ("failed", f"its process ended without a word: {end}")
            )
            close_lost_attempt(folder, *how)
            outcome = folder.read_outcome()
        self.listener.ended(running.run, folder, outcome["outcome"], outcome["message"])

    def _wind_up(self) -> None:
        """Ask every worker to save and end, and wait for them; asked again, they are killed."""
        for number, running in self._running.items():
            self.listener.stopping(running.run)
            self._ask_to_stop(number, running)
        while self._running and not self.stop.is_urgent:
            self._listen()
        self.nursery.close()
        for running in self._running.values():
            close_lost_attempt(running.folder, "interrupted", STOPPED)

    def _ask_to_stop(self, number: int, running: _Running) -> None:
        """Ask the process that holds the run's lock: torchrun kills ranks that take more than 30 s to save, when it is
        asked itself. What holds no lock yet has nothing to save."""
        owner = holder(running.folder.lock)
        if owner is None or owner.host != socket.gethostname():
            self.nursery.signal(number, signal.SIGTERM)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(owner.pid, signal.SIGTERM)
