"""A job goes back to the queue, or not: after a stop by its first rank, after the loss of a rank by its script."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Literal

from lora_dist.dispatch.failures import job_log_of
from lora_dist.dispatch.job_log import JobLog
from lora_dist.errors import ConfigError
from lora_dist.store.attempts import LESS_MEMORY, OUT_OF_MEMORY, OUT_OF_MEMORY_CAUSE, RANK_LOST, close_lost_attempt
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Beat, read_beat
from lora_dist.store.histories import history_of
from lora_dist.store.ledger import requeues_of, write_not_requeued, write_requeued
from lora_dist.world import SlurmJob

log = logging.getLogger(__name__)
Cause = Literal["preempted", "timeout", "signal", "rank_lost"]

_PATIENCE_S = 60.0
_RUNS_AGAIN_ALREADY = ("pending execution", "requeue", "already")
_MARGIN_S = 60.0
MOST_LOSSES = 3
"""How often a run whose ranks lose each other goes back to the queue: a node may have failed, or memory run out."""


@dataclass(frozen=True)
class Requeue:
    """How a stopped run of a job goes on."""

    job: SlurmJob
    signal_seconds: int
    """How long before its limit the job was to be told."""

    def after_stop(self, folder: RunFolder, heard: int) -> None:
        """Give the job back to the queue if that is this process's to do.

        SIGTERM is no reason: the cluster sends it to end a job, or starts it again itself after a preemption.

        Args:
            heard: the signal that the run was stopped by.
        Raises:
            ConfigError: the time limit was met twice at the same step; the run's outcome says so too.
        """
        if heard != signal.SIGUSR2:
            return
        beat, cause = read_beat(folder.heartbeat), self._cause()
        if cause == "timeout":
            self._refuse_standstill(folder, beat)
        self._give_back(folder, cause, beat)

    def after_loss(self, folder: RunFolder) -> None:
        """Give the job back to the queue if this start of it ended because a rank was gone, `MOST_LOSSES` times.

        A node that fails is seen by the ranks on the others before the cluster misses it. For the job's script to call,
        once srun has ended: when a rank dies, srun kills the first one too, and whatever that one has begun.

        A rank that the out-of-memory killer ended would meet it again: that run has failed, and says what to change.
        """
        ledger = folder.experiment.ledger
        last = history_of(ledger, folder.id).last
        if (last.job, last.restart) != (self.job.id, self.job.restart):
            return  # no worker of this start has begun: what there is of an outcome is another's
        told = folder.read_outcome()  # none: the first rank was gone before it could say so
        is_lost = told is None or str(told["message"]).startswith(RANK_LOST)
        said = job_log_of(folder.experiment, self.job.id) if is_lost else JobLog()
        if said.is_out_of_memory:
            _fail_for_memory(folder, said, has_outcome=told is not None)
        elif is_lost and len(requeues_of(ledger, folder.id, "rank_lost")) < MOST_LOSSES:
            self._give_back(folder, "rank_lost", read_beat(folder.heartbeat))

    def _refuse_standstill(self, folder: RunFolder, beat: Beat | None) -> None:
        before = requeues_of(folder.experiment.ledger, folder.id, "timeout")
        if beat and before and before[-1].get("stage") == beat.stage and (before[-1].get("step") or 0) >= beat.done:
            error = ConfigError(
                key="launch.slurm.time",
                problem=f"{folder.id} met its limit twice without getting further than {beat.stage} {beat.done}",
                fix="raise it, or lower train.checkpoint_steps",
            )
            folder.write_outcome("refused", str(error))
            raise error

    def _cause(self) -> Cause:
        """The cluster sends the same signal before the limit and at a preemption, which moves the job's end to now."""
        asked = _said("scontrol", "show", "job", "-o", self.job.id)
        times = dict(re.findall(r"(\w+Time)=(\S+)", asked))
        if times.get("PreemptTime", "None") not in ("None", "Unknown"):
            return "preempted"
        try:
            left = time.mktime(time.strptime(times["EndTime"], "%Y-%m-%dT%H:%M:%S")) - time.time()
        except (KeyError, ValueError):  # it says nothing, or Unknown
            return "signal"
        return "timeout" if left <= self.signal_seconds + _MARGIN_S else "signal"

    def _give_back(self, folder: RunFolder, cause: Cause, beat: Beat | None) -> None:
        """Into the ledger first: a job that goes back may be killed before it can write another line."""
        write_requeued(
            folder.experiment.ledger,
            folder.id,
            cause=cause,
            job=self.job.id,
            step=beat.done if beat else None,
            steps=beat.total if beat else None,
            stage=beat.stage if beat else "",
        )
        why = _requeue(self.job.id)
        if why:
            write_not_requeued(folder.experiment.ledger, folder.id, job=self.job.id, why=why)
            log.error("job %s could not be given back to the queue: %s", self.job.id, why)
        else:
            log.info("job %s goes back to the queue", self.job.id)


def _fail_for_memory(folder: RunFolder, said: JobLog, *, has_outcome: bool) -> None:
    first = next((end for end in said.ends if end.how == "Out Of Memory"), said.ends[0] if said.ends else None)
    who = f"rank {first.rank} on {first.node}" if first else "a rank"
    message = f"{OUT_OF_MEMORY}: the kernel killed {who}; {LESS_MEMORY}"
    facts = {"rank": first.rank, "host": first.node} if first else {}
    if has_outcome:  # the first rank has seen that another one was gone, and ended the attempt with that
        folder.write_outcome("failed", message, cause=OUT_OF_MEMORY_CAUSE, **facts)
    else:
        close_lost_attempt(folder, "failed", message, cause=OUT_OF_MEMORY_CAUSE, **facts)


def _requeue(job: str) -> str:
    """`scontrol requeue`; why the job does not come back, or nothing if it does.

    After a preemption the cluster has done it already, and says so as an error.
    """
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(  # noqa: S603 - a job's id
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        return f"scontrol has not answered for {_PATIENCE_S:.0f} s"
    except OSError as error:
        return f"scontrol cannot be started: {error.strerror}"
    said = " ".join(done.stderr.split())
    if done.returncode == 0 or any(words in said.lower() for words in _RUNS_AGAIN_ALREADY):
        return ""
    return said or f"scontrol ended with {done.returncode}"


def _said(*command: str) -> str:
    try:
        return subprocess.run(  # noqa: S603 - a job's id
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s has not answered: %s", " ".join(command[:3]), error)
        return ""
