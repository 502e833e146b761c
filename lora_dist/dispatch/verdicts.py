"""What a job's end means for its run: SLURM's states, the cause, and what there is to do."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from typing import Literal

from lora_dist.dispatch.elements import Element
from lora_dist.dispatch.scheduler_words import Job
from lora_dist.store.attempts import LESS_MEMORY, NODE_UNFIT_CAUSE, OUT_OF_MEMORY_CAUSE
from lora_dist.store.states import RunState

State = Literal[
    "waiting", "pending", "running", "completed", "failed", "refused", "interrupted", "cancelled", "lost", "unknown",
    "stale",
]  # fmt: skip
"""waiting: no job is on its way. pending: its job is in the queue. lost: its job is gone and nobody said how it ended.
unknown: the scheduler does not answer. stale: it was begun without a job, and killed."""

Action = Literal["", "wait", "submit", "resume", "retry", "retry_elsewhere", "mend"]
"""submit: it has no job. resume: free of charge, it goes on from its checkpoint. retry: once more, within bounds.
retry_elsewhere: the same without its node. mend: the same again would end the same way."""

MORE_TIME = "give it more time (launch.slurm.time) or save more often (train.checkpoint_steps)"


@dataclass(frozen=True)
class Verdict:
    """Where a run stands."""

    state: State
    reason: str = ""
    """In a line, for people."""
    cause: str = ""
    """In a word, for programs: preempted, timeout, node_fail, node_unfit, out_of_memory, cancelled, dependency, failed,
    refused, signal, deadline, lost; empty while nothing has gone wrong."""
    action: Action = ""


_ON_THE_WAY = {"prepare": "tokenised", "prune": "pruned", "train": "trained"}


def verdict_of_end(end: Job, element: Element, at: RunState) -> Verdict:
    """What it means that a job has ended like this and the run has no record."""
    worker = at if at.history.attempts and element.has_started(at.history.last) else None
    if worker and worker.state == "refused":
        return Verdict("refused", worker.reason, "refused", "mend")
    saved = worker is not None and worker.state == "interrupted"
    where = f" on {end.nodes}" if end.nodes else ""
    match end.state:
        case "COMPLETED":
            return _completed(element, worker)
        case "TIMEOUT":
            if worker and _has_advanced(worker, saved=saved):
                return Verdict(
                    "interrupted", "it met its time limit, and goes on from its checkpoint", "timeout", "resume"
                )
            return Verdict("failed", f"it met its time limit before it got any further: {MORE_TIME}", "timeout", "mend")
        case "PREEMPTED":
            return Verdict("interrupted", "preempted by another job", "preempted", "resume")
        case "NODE_FAIL" | "BOOT_FAIL":
            return Verdict("interrupted", f"{end.state}{where}", "node_fail", "retry_elsewhere")
        case "OUT_OF_MEMORY":
            return Verdict("failed", f"out of memory{where}: {LESS_MEMORY}", OUT_OF_MEMORY_CAUSE, "mend")
        case "CANCELLED":
            return _cancelled(end, element, saved=saved)
        case "DEADLINE":
            return Verdict("failed", "its deadline had come (sbatch --deadline)", "deadline", "mend")
    if worker and worker.state in ("failed", "interrupted"):
        return _by_worker(worker)
    return Verdict("failed", _why_failed(end, has_begun=worker is not None), "failed", "mend")


def verdict_of_worker(element: Element, at: RunState) -> Verdict | None:
    """What the worker itself said of the end of this job; None when it said nothing."""
    if not at.history.attempts or not element.has_started(at.history.last):
        return None
    if at.state in ("failed", "refused", "interrupted"):
        return _by_worker(at)
    return Verdict("waiting", at.reason, action="submit") if at.state == "waiting" and at.reason else None


def _by_worker(at: RunState) -> Verdict:
    if at.state == "refused":
        return Verdict("refused", at.reason, "refused", "mend")
    if at.state == "interrupted":
        cause = str(at.history.last.requeued.get("cause") or "signal")
        return Verdict("interrupted", at.reason + _not_requeued(at), cause, "resume")
    action: Action = "retry_elsewhere" if at.cause == NODE_UNFIT_CAUSE else "mend"
    return Verdict("failed", at.reason + _not_requeued(at), at.cause or "failed", action)


def _not_requeued(at: RunState) -> str:
    why = at.history.last.not_requeued
    return f"; its job could not be given back to the queue: {why}" if why else ""


def _completed(element: Element, worker: RunState | None) -> Verdict:
    if worker and worker.state in ("failed", "interrupted"):  # a launcher between may turn any exit code into 0
        return _by_worker(worker)
    if element.submission.stage in _ON_THE_WAY:
        return Verdict("waiting", f"{_ON_THE_WAY[element.submission.stage]}, and not yet measured", action="submit")
    if worker and worker.state == "waiting":
        return Verdict("waiting", worker.reason, action="submit")
    return Verdict("lost", "SLURM says COMPLETED, and there is no record", "lost", "retry")


def is_ended_by_dependency(element: Element) -> bool:
    """Whether the cluster has ended it since what it waited for had failed."""
    end = element.end
    if end is None or end.state != "CANCELLED":
        return False
    if end.by or element.submission.is_cancelled:
        return False
    is_for_ever = end.reason == NEVER or (element.queued is not None and element.queued.reason == NEVER)
    return is_for_ever or bool(element.submission.after)  # sbatch --kill-on-invalid-dep


def _cancelled(end: Job, element: Element, *, saved: bool) -> Verdict:
    if is_ended_by_dependency(element):
        return Verdict("failed", f"{NEVER}: what it waited for has failed", "dependency", "mend")
    who = f" {_named(end.by)}" if end.by else ""
    return Verdict("cancelled", f"cancelled{who}{', saved before' if saved else ''}", "cancelled", "retry")


def _named(by: str) -> str:
    """`by 1000` with the user's name, where this machine knows it."""
    try:
        return f"by {pwd.getpwuid(int(by.removeprefix('by '))).pw_name}"
    except (ValueError, KeyError):
        return by


NEVER = "DependencyNeverSatisfied"
"""SLURM's reason for a job that would wait for ever, as what it waits for has failed."""


def _why_failed(end: Job, *, has_begun: bool) -> str:
    code = f" (exit code {end.exit_code})" if end.exit_code else ""
    return f"its job ended {end.state}{code} {'without a word' if has_begun else 'before its worker began'}"


def _has_advanced(at: RunState, *, saved: bool) -> bool:
    """Whether the newest attempt got any further than where it began; the end of one that saved says so."""
    last, beat = at.history.last, at.last_beat
    if last.requeued.get("step") is not None:
        return int(last.requeued["step"]) > last.first_step
    if beat is not None:
        return beat.done > (last.first_step if beat.stage == "train" else 0)
    if last.end.get("done") is not None:
        return int(last.end["done"]) > (last.first_step if last.end.get("stage") == "train" else 0)
    return saved
