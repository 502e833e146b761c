"""Where every run of a cluster stands: its folder, the ledger and the scheduler brought to one row per run.

Who is believed, in this order: the record, the run's lock and outcome, its heartbeat, sacct on how jobs ended, squeue.
With one exception: sacct lags behind squeue, so a job that squeue lists as waiting or running is that. A scheduler
that says nothing never makes a run dead: it is `unknown` then.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_dist.dispatch.elements import GRACE_S, Element, Orphans, elements_by_run, orphans
from lora_dist.dispatch.gpu_hours import gpu_hours
from lora_dist.dispatch.scheduler import Snapshot
from lora_dist.dispatch.scheduler_words import Job
from lora_dist.dispatch.verdicts import (
    NEVER,
    Action,
    State,
    Verdict,
    is_ended_by_dependency,
    verdict_of_end,
    verdict_of_worker,
)
from lora_dist.store.heartbeat import Beat
from lora_dist.store.ledger import Submission
from lora_dist.store.states import RunState

FRESH_S = 30.0
"""A heartbeat younger than this is a sign of life (workers beat at every step)."""
QUIET_S = 600.0
"""After so long without a heartbeat, a worker that should be alive is remarked upon."""
_MAY_COME_BACK = ("PREEMPTED", "NODE_FAIL", "BOOT_FAIL")  # sacct's word while the job may be in the queue again


@dataclass(frozen=True)
class Row:
    """One run on a cluster."""

    run: str
    stage: str
    """What it does or waits for: prune, train, evaluate, ...; the stage of its job (prune, run) while nothing runs."""
    state: State
    reason: str = ""
    cause: str = ""
    """In a word; see `Verdict.cause`."""
    action: Action = ""
    next: str = ""
    """The command to type, where one helps."""
    job: str = ""
    """123 or 123_4."""
    scheduler_state: str = ""
    """SLURM's own word: PENDING, RUNNING, NODE_FAIL, ..."""
    scheduler_reason: str = ""
    nodes: str = ""
    """As SLURM writes a list of machines."""
    done: int = 0
    total: int = 0
    """`done` of `total` of the stage; 0 while it is not known."""
    left_s: float | None = None
    """Seconds until the time limit, while it runs."""
    attempts: int = 0
    seconds: float = 0.0
    """Wall-clock seconds of all attempts."""
    gpu_hours_useful: float = 0.0
    gpu_hours_lost: float = 0.0


def reconcile(
    states: Sequence[RunState],
    submissions: Sequence[Submission],
    snapshot: Snapshot,
    found: Orphans | None = None,
) -> list[Row]:
    """One row per run, in their order. Pure: everything it knows is in its arguments.

    Args:
        found: what became of submissions without a job, where the caller has looked already.
    """
    histories = {at.folder.id: at.history for at in states}
    found = found or orphans(submissions, snapshot, histories)
    elements = elements_by_run(submissions, snapshot, found.adopted)
    jobs = {submission.id: submission.job or found.adopted.get(submission.id, "") for submission in submissions}
    return [_row(at, elements.get(at.folder.id, []), snapshot, found, jobs) for at in states]


def _row(at: RunState, elements: list[Element], snapshot: Snapshot, found: Orphans, jobs: Mapping[str, str]) -> Row:
    shown, verdict = _judge(at, elements, snapshot, found, jobs)
    said = (shown.live or shown.end) if shown else None
    beat = at.beat or at.last_beat
    stage, done, total = _progress(at, beat)
    is_running = verdict.state == "running"
    unended = 0.0 if at.history.last.end else max(0.0, at.seconds - at.history.ended_seconds)
    spent = gpu_hours(elements, at.history, unended, is_completed=at.state == "completed")
    return Row(
        run=at.folder.id,
        stage=(stage if is_running and stage else shown.submission.stage if shown else stage),
        state=verdict.state,
        reason=verdict.reason,
        cause=verdict.cause,
        action=verdict.action,
        next=_next(at, verdict),
        job=shown.job if shown else "",
        scheduler_state=said.state if said else "",
        scheduler_reason=said.reason if said else "",
        nodes=_nodes(at, said, is_running),
        done=done,
        total=total,
        left_s=said.left_s if said and is_running and said.runs else None,
        attempts=at.attempts + spent.unseen_starts,
        seconds=at.seconds,
        gpu_hours_useful=spent.useful,
        gpu_hours_lost=spent.lost,
    )


def _judge(
    at: RunState, elements: list[Element], snapshot: Snapshot, found: Orphans, jobs: Mapping[str, str]
) -> tuple[Element | None, Verdict]:
    """The job that tells most about where the run stands, and where that is."""
    newest = elements[-1] if elements else None
    if at.state == "completed":
        return newest, Verdict("completed")
    running = [element for element in elements if element.live and element.live.runs]
    if running:
        return running[-1], Verdict("running", _remark(at, running[-1], snapshot.time))
    if at.state == "running":  # its lock is held: by hand, or the scheduler is behind or silent
        return newest, Verdict("running")
    is_alive = newest is not None and _beats(at, snapshot.time)
    if is_alive and not snapshot.queue_answers:
        return newest, Verdict("running", f"by its heartbeat; {snapshot.why_silent}")
    in_queue = [(element, element.live) for element in elements if element.live]
    for element, job in in_queue:  # the first is what the others wait for
        if job.reason != NEVER:
            return element, Verdict("pending", _why_pending(at, element, job, jobs), action="wait")
    if in_queue:
        element, _ = in_queue[-1]
        return element, Verdict("failed", f"{NEVER}: {_what_failed(element, elements, jobs)}", "dependency", "mend")
    if newest is None:
        return None, _without_job(at)
    if is_alive:
        return newest, Verdict("running", "by its heartbeat; it is in no queue")
    telling = _telling(at, elements)
    return telling, _judge_gone(at, telling, snapshot, found)


def _telling(at: RunState, elements: list[Element]) -> Element:
    """The job whose end tells why: the newest, unless that never began since the one that it waited for had failed."""
    newest = elements[-1]
    if at.history.attempts and at.state in ("failed", "refused", "interrupted") and is_ended_by_dependency(newest):
        return next((element for element in reversed(elements) if element.has_started(at.history.last)), newest)
    return newest


def _beats(at: RunState, now: float) -> bool:
    """Whether the newest attempt, as far as it is not known to have ended, gave a sign of life just now."""
    return at.last_beat is not None and not at.history.last.end and now - at.last_beat.time < FRESH_S


def _judge_gone(at: RunState, newest: Element, snapshot: Snapshot, found: Orphans) -> Verdict:
    """A run none of whose jobs waits or runs, as far as the scheduler says."""
    submission, age = newest.submission, snapshot.time - newest.submission.time
    if not newest.job:
        if submission.id in found.never_reached:
            return Verdict("waiting", "its job never reached SLURM", action="submit")
        if age < GRACE_S:
            return Verdict("pending", "being submitted", action="wait")
        return Verdict("unknown", f"its submitter has ended, and {_silence(snapshot)}", action="wait")
    worker = verdict_of_worker(newest, at)
    end = newest.end
    if end and (snapshot.queue_answers or end.state not in _MAY_COME_BACK):
        return verdict_of_end(end, newest, at)
    if not snapshot.queue_answers:
        is_sure = worker is not None and worker.state in ("failed", "refused")  # no such job is started again
        return worker if worker and is_sure else Verdict("unknown", _silence(snapshot), action="wait")
    if worker:
        return worker
    if submission.is_cancelled:
        return Verdict("cancelled", "cancelled", "cancelled", "retry")
    if age < GRACE_S:
        return Verdict("pending", "just submitted", action="wait")
    return _vanished(at, newest, snapshot)


def _vanished(at: RunState, newest: Element, snapshot: Snapshot) -> Verdict:
    """In no queue, and nobody knows how it ended."""
    has_begun = bool(at.history.attempts) and newest.has_started(at.history.last)
    if not has_begun and not newest.starts and snapshot.accounts_answer:  # as Slurm 22.05 leaves an element of an array
        return Verdict("cancelled", f"job {newest.job} left the queue before it started", "cancelled", "retry")
    told = f"sacct says {newest.starts[-1].state}" if newest.starts else snapshot.said_nothing.get("sacct", "")
    why = f" ({told})" if told else "" if snapshot.has_accounting else " (this cluster keeps no accounts)"
    begun = at.reason if has_begun and at.state == "stale" else "it is not known to have begun"
    return Verdict("lost", f"job {newest.job} is in no queue{why}; {begun}", "lost", "retry")


def _without_job(at: RunState) -> Verdict:
    """A run that no job was submitted for: its folder's word."""
    action: Action = {"waiting": "submit", "interrupted": "resume", "stale": "retry"}.get(at.state, "mend")
    return Verdict(at.state, at.reason, at.state if at.state in ("failed", "refused") else "", action)


def _silence(snapshot: Snapshot) -> str:
    return snapshot.why_silent or "the scheduler does not know its job"


def _remark(at: RunState, element: Element, now: float) -> str:
    """What is odd about a run whose job runs; usually nothing."""
    job = element.live
    if job and job.state == "COMPLETING":
        return "its job is ending"
    if element.submission.stage == "prepare":
        return "the runs are checked and the data is tokenised"
    beat = at.beat or at.last_beat
    if beat is None or (job and job.start and beat.time < job.start):  # what there is may be of the start before
        return "" if at.state == "running" else "its worker has not begun yet"
    quiet = now - beat.time
    return f"no sign of life for {quiet / 60:,.0f} minutes: look at its log" if quiet > QUIET_S else ""


def _why_pending(at: RunState, element: Element, job: Job, jobs: Mapping[str, str]) -> str:
    parts = [job.reason] if job.state == "PENDING" else [job.state, job.reason]
    before = [jobs[other] for other in element.submission.after if jobs.get(other)]
    if job.reason == "Dependency" and before:
        parts[-1] += f" (job {', '.join(before)})"
    requeued = at.history.last.requeued
    if requeued and element.has_started(at.history.last):
        step = f" at step {requeued['step']:,}" if isinstance(requeued.get("step"), int) else ""
        parts.append(f"requeued ({requeued.get('cause')}){step}")
    return "; ".join(part for part in parts if part)


def _what_failed(element: Element, elements: list[Element], jobs: Mapping[str, str]) -> str:
    ended = [other for other in elements if other is not element and other.end and other.end.state != "COMPLETED"]
    if ended:
        return f"its {ended[-1].submission.stage} job {ended[-1].job} ended {ended[-1].end.state}"
    before = [jobs[other] for other in element.submission.after if jobs.get(other)]
    return f"job {', '.join(before)}, which it waits for, has failed" if before else "what it waits for has failed"


def _progress(at: RunState, beat: Beat | None) -> tuple[str, int, int]:
    """Stage, done and total: of the worker that runs, or else of the newest attempt."""
    if beat is not None:
        return beat.stage, beat.done, beat.total
    requeued, end = at.history.last.requeued, at.history.last.end
    if at.state == "completed":
        return "", 0, 0
    if requeued.get("step") is not None:
        return "train", int(requeued["step"]), int(requeued.get("steps") or 0)
    return str(end.get("stage") or ""), int(end.get("done") or 0), int(end.get("total") or 0)


def _nodes(at: RunState, said: Job | None, is_running: bool) -> str:
    return (said.nodes if said else "") or (at.history.last.nodes if is_running else "")


def _next(at: RunState, verdict: Verdict) -> str:
    """The command that brings the run on, where one does."""
    folder = shlex.quote(str(at.folder.experiment.path))
    match verdict.action:
        case "submit":
            return f"lora-dist compare {folder}"
        case "resume" | "retry" | "retry_elsewhere" | "mend":
            return f"lora-dist retry {folder} {at.folder.id}"
        case _:
            return ""
