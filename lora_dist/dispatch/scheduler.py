"""What SLURM says of this user's jobs: the only place that runs its query commands, two at most for each look."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO

from lora_dist.dispatch.scheduler_words import CUT_OFF, SACCT_FIELDS, SQUEUE_FORMAT, Job, sacct_jobs, squeue_jobs

TIMEOUT_S = 5.0
"""Longer than a busy controller takes; shorter than squeue tries to reach one that is down (9 s, measured)."""
_CLOCK_SLACK_S = 120.0  # the controller's clock need not be this machine's
_NO_ACCOUNTING = "accounting storage is disabled"
_DIES_WITHIN_S = 1.0


@dataclass(frozen=True)
class Snapshot:
    """What SLURM said at one moment. That a command said nothing never means that a job is gone."""

    time: float
    """Seconds since the epoch, when it was asked."""
    queue: dict[str, Job] = field(default_factory=dict)
    """squeue's word by id (123, 123_4): what waits and runs, and what ended in the last minutes."""
    accounts: dict[str, list[Job]] = field(default_factory=dict)
    """sacct's word by id: one for each time that a job was started, oldest first."""
    said_nothing: dict[str, str] = field(default_factory=dict)
    """Commands that gave no answer, and why: missing, hanging, or with an error. Empty when all is known."""
    has_accounting: bool = True
    """Whether this cluster keeps accounts at all; without, ended jobs are forgotten within minutes."""

    @property
    def queue_answers(self) -> bool:
        """Whether squeue has answered: then a job that is not in the queue neither waits nor runs."""
        return "squeue" not in self.said_nothing

    @property
    def accounts_answer(self) -> bool:
        """Whether sacct has answered."""
        return self.has_accounting and "sacct" not in self.said_nothing

    @property
    def why_silent(self) -> str:
        """What is missing of an answer, in a line; empty when nothing is."""
        return "; ".join(f"{command} {why}" for command, why in self.said_nothing.items())

    def queued(self, job: str) -> Job | None:
        """squeue's word on 123 or 123_4."""
        return self.queue.get(job) or self.queue.get(f"{job.partition('_')[0]}_{CUT_OFF}")

    def accounted(self, job: str) -> list[Job]:
        """sacct's word on each start of 123 or 123_4, oldest first."""
        return self.accounts.get(job) or self.accounts.get(f"{job.partition('_')[0]}_{CUT_OFF}") or []

    def jobs_named(self, ending: str) -> set[str]:
        """The jobs (arrays as a whole) whose name ends in `.ending`."""
        lines = [*self.queue.values(), *(job for jobs in self.accounts.values() for job in jobs)]
        return {job.id.partition("_")[0] for job in lines if job.name.endswith(f".{ending}")}


def seen_jobs(
    since: float, timeout_s: float = TIMEOUT_S, *, jobs: Sequence[str] | None = None, has_accounting: bool = True
) -> Snapshot:
    """Ask squeue and sacct, side by side, what they know of this user's jobs. Never raises for what they do.

    Args:
        since: look at accounts from here on, in seconds since the epoch.
        timeout_s: how long to wait for both together.
        jobs: only these in the accounts. Named jobs are found even if they were cancelled before they could have
            started, which sacct otherwise leaves out; None asks for all, so that jobs can be found by their names.
        has_accounting: False if an earlier look found none; sacct is not asked then.
    """
    asked_at = time.time()
    squeue = _Question(["squeue", "--me", "-h", "-t", "all", "-r", "-o", SQUEUE_FORMAT])
    sacct = _Question(_sacct(since, jobs)) if has_accounting and (jobs is None or jobs) else None
    deadline = time.monotonic() + timeout_s
    said_nothing: dict[str, str] = {}
    try:
        queue, why = squeue.answer(deadline)
        if why:
            said_nothing["squeue"] = why
        accounts, why = sacct.answer(deadline) if sacct else ("", "")
        if _NO_ACCOUNTING in why:
            has_accounting = False
        elif why:
            said_nothing["sacct"] = why
    finally:
        squeue.end()
        if sacct:
            sacct.end()
    return Snapshot(
        time=asked_at,
        queue={job.id: job for job in squeue_jobs(queue)},
        accounts=_by_id(sacct_jobs(accounts)),
        said_nothing=said_nothing,
        has_accounting=has_accounting,
    )


def _sacct(since: float, jobs: Sequence[str] | None) -> list[str]:
    start = datetime.fromtimestamp(max(0.0, since - _CLOCK_SLACK_S)).strftime("%Y-%m-%dT%H:%M:%S")
    chosen = ["-j", ",".join(jobs)] if jobs else []
    return ["sacct", "-X", "-n", "-P", "--duplicates", "-S", start, *chosen, "-o", SACCT_FIELDS]


def _by_id(jobs) -> dict[str, list[Job]]:
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.id, []).append(job)
    for lines in found.values():  # one that has not started is the newest
        lines.sort(key=lambda job: (job.start is None and not job.has_ended, job.start or job.end or 0.0))
    return found


class _Question:
    """One command, running; its output goes to files, so that it never waits for us to read it."""

    def __init__(self, command: list[str]) -> None:
        self._process: subprocess.Popen | None = None
        self._why = ""
        self._out: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        self._err: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            # A session of its own: what it starts ends with it, and Ctrl-C is ours to handle.
            self._process = subprocess.Popen(  # noqa: S603 - words of ours, no shell
                command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, env=_environment(),
                start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            self._why = "is not installed here"
        except OSError as error:
            self._why = f"cannot be started: {error.strerror}"

    def answer(self, deadline: float) -> tuple[str, str]:
        """What it printed, and why that is nothing; waits until `deadline` on the monotonic clock."""
        if self._process is None:
            return "", self._why
        try:
            code = self._process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "", "did not answer in time"
        if code != 0:
            lines = self._read(self._err).strip().splitlines() or [f"exit code {code}"]
            return "", f"failed: {lines[-1]}"  # the last one sums up
        return self._read(self._out), ""

    @staticmethod
    def _read(file: IO[bytes]) -> str:
        file.seek(0)
        return file.read().decode(errors="replace")

    def end(self) -> None:
        """Kill it if it still runs, with all that it has started."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is left to it
                self._process.wait(timeout=_DIES_WITHIN_S)
        self._out.close()
        self._err.close()


def _environment() -> dict[str, str]:
    """The user's, without defaults of theirs that would filter jobs away or change the format of the reply."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
    # Lists of array elements whole; times as seconds since the epoch, which no time zone bends.
    return {**kept, "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}
