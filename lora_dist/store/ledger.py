"""The ledger: what was started and what became of it, one JSON line per event, never rewritten."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_dist.store.lines import append_line, read_lines

STARTED, RESUMED, ENDED = "started", "resumed", "ended"
SUBMITTING, SUBMITTED, ABANDONED, CANCELLED = "submitting", "submitted", "abandoned", "cancelled"
REQUEUED, NOT_REQUEUED = "requeued", "not_requeued"
JobStage = Literal["prepare", "prune", "run", "train", "evaluate", "report"]
"""What a job does: check all runs and tokenise, prune a model, do runs to their records (or their training and then
their evaluation, each in a job of its own), or write the report."""


def write_event(ledger: Path, run_id: str, event: str, **facts: Any) -> None:
    """Append one event of a run, with the time and the process that says so."""
    _write(ledger, event, {"run": run_id, **facts})


def _write(ledger: Path, event: str, facts: dict[str, Any]) -> None:
    said = {"time": time.time(), "event": event, "host": socket.gethostname(), "pid": os.getpid()}
    append_line(ledger, said | facts)


def resumed_steps(ledger: Path, run_id: str) -> list[int]:
    """The checkpoints that a run has gone on from, over all its attempts."""
    return [line["step"] for line in read_lines(ledger) if line.get("run") == run_id and line.get("event") == RESUMED]


def is_array(stage: JobStage, runs: Sequence[object]) -> bool:
    """Whether a job does each of its runs in an element of its own; what is done once for several runs is no array."""
    return stage in ("run", "train", "evaluate") and len(runs) > 1


def is_job_of(name: str, submission: str) -> bool:
    """Whether a job of this name is the submission's."""
    return bool(submission) and name.endswith(f".{submission}")


def write_submitting(
    ledger: Path,
    submission: str,
    *,
    job_name: str,
    stage: JobStage,
    runs: Sequence[str],
    resources: Mapping[str, Any],
    after: Sequence[str] = (),
) -> None:
    """Say that a job is about to be submitted. Written before sbatch runs, and on the disk when this returns.

    Args:
        submission: 8 hex that no other submission has.
        job_name: it ends in `.<submission>`, so that a submitter that was killed finds its jobs again.
        runs: run ids in the order of the array; element i of the job does runs[i]. A job without elements does all.
        resources: what one element gets; `status` reads `nodes`, and `gpus` over all of its nodes.
        after: the submissions that have to end well before this one starts.
    Raises:
        ValueError: the job could not be found again by this name.
        StorageError: the disk is full or the folder is not writable.
    """
    if not is_job_of(job_name, submission):
        raise ValueError(f"the job name {job_name!r} does not end in .{submission}")
    told = {"job_name": job_name, "stage": stage, "runs": list(runs), "resources": dict(resources)}
    _write(ledger, SUBMITTING, {"submission": submission, **told, **({"after": list(after)} if after else {})})


def write_submitted(ledger: Path, submission: str, job: str) -> None:
    """Say that the scheduler has taken it as `job`, such as 123 (the array's, where it is one)."""
    _write(ledger, SUBMITTED, {"submission": submission, "job": job})


def write_abandoned(ledger: Path, submission: str, why: str) -> None:
    """Say that no job came of it: sbatch refused, or it never reached the scheduler."""
    _write(ledger, ABANDONED, {"submission": submission, "why": why})


def write_cancelled(ledger: Path, submission: str) -> None:
    """Say that the user had it cancelled."""
    _write(ledger, CANCELLED, {"submission": submission})


def write_requeued(
    ledger: Path, run_id: str, *, cause: str, job: str, step: int | None, steps: int | None, stage: str = ""
) -> None:
    """Say that a run's job goes back into the queue.

    Args:
        cause: preempted, timeout, signal, node_fail, ...
        job: 123, or 123_4 for an element of an array.
        step: what is saved, of `steps`; None where that is not known.
        stage: what the steps are of.
    """
    write_event(ledger, run_id, REQUEUED, cause=cause, job=job, step=step, steps=steps, stage=stage)


def write_not_requeued(ledger: Path, run_id: str, *, job: str, why: str) -> None:
    """Take the run's last `requeued` back: the cluster has not done it."""
    write_event(ledger, run_id, NOT_REQUEUED, job=job, why=why)


def requeues_of(ledger: Path, run_id: str, cause: str) -> list[dict[str, Any]]:
    """How often a run's job went back into the queue for this cause, oldest first; see `write_requeued`."""
    found: list[dict[str, Any]] = []
    for line in read_lines(ledger):
        if line.get("run") == run_id and line.get("event") == REQUEUED:
            found.append(line)
        elif line.get("run") == run_id and line.get("event") == NOT_REQUEUED and found:
            found.pop()
    return [line for line in found if line.get("cause") == cause]


@dataclass(frozen=True)
class Submission:
    """One job, or one array of jobs, and what the submitter has said of it."""

    id: str
    """8 hex."""
    time: float
    """When it was about to be submitted, in seconds since the epoch."""
    job_name: str
    stage: JobStage
    runs: tuple[str, ...]
    """In the order of the array."""
    resources: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    """The submissions that it waits for."""
    host: str = ""
    pid: int = 0
    """The process that submitted it, on `host`: while it lives, sbatch may still be at work."""
    job: str = ""
    """What the scheduler calls it; empty until it has answered."""
    abandoned: str | None = None
    """Why no job came of it; None unless it was given up."""
    is_cancelled: bool = False


def read_submissions(ledger: Path) -> list[Submission]:
    """Every submission that the ledger knows, oldest first; none when there is no ledger."""
    return submissions_in(read_lines(ledger))


def submissions_in(events: Iterable[dict[str, Any]]) -> list[Submission]:
    """The submissions among these events, in the order in which they were made; damaged events are passed over."""
    begun: dict[str, dict[str, Any]] = {}
    said: dict[str, dict[str, Any]] = {}
    for event in events:
        submission, what = str(event.get("submission") or ""), event.get("event")
        if what == SUBMITTING and submission:
            begun[submission] = event
        elif what == SUBMITTED:
            said.setdefault(submission, {})["job"] = str(event.get("job") or "")
        elif what == ABANDONED:
            said.setdefault(submission, {})["abandoned"] = str(event.get("why") or "")
        elif what == CANCELLED:
            said.setdefault(submission, {})["is_cancelled"] = True
    return [_submission(name, event, said.get(name, {})) for name, event in begun.items()]


def _submission(name: str, event: dict[str, Any], said: dict[str, Any]) -> Submission:
    return Submission(
        id=name,
        time=float(event.get("time") or 0.0),
        job_name=str(event.get("job_name") or ""),
        stage=event.get("stage") or "run",
        runs=tuple(map(str, event.get("runs") or ())),
        resources=dict(event.get("resources") or {}),
        after=tuple(map(str, event.get("after") or ())),
        host=str(event.get("host") or ""),
        pid=int(event.get("pid") or 0),
        **said,
    )
