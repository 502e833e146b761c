"""Which job does which run: the ledger's submissions joined with what the scheduler knows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lora_dist.dispatch.scheduler import Snapshot
from lora_dist.dispatch.scheduler_words import Job
from lora_dist.store.histories import Attempt, History
from lora_dist.store.ledger import Submission, is_array, is_job_of

GRACE_S = 10.0
"""How long a job may take from the ledger into the queue and the accounts (up to 5 s seen on Slurm 22.05)."""
_CLOCKS_AGREE_S = 5.0


@dataclass(frozen=True)
class Orphans:
    """Submissions whose submitter did not live to write down what became of them."""

    adopted: dict[str, str] = field(default_factory=dict)
    """Submission -> its job, found by its name or by the worker that it started: enter it as `submitted`."""
    never_reached: list[str] = field(default_factory=list)
    """No job of that name is anywhere, and the scheduler has answered: enter it as `abandoned`, then submit again."""
    unknown: list[str] = field(default_factory=list)
    """Too young, or the scheduler does not answer: leave it alone, and look again."""


def orphans(
    submissions: Sequence[Submission], snapshot: Snapshot, histories: Mapping[str, History] | None = None
) -> Orphans:
    """What became of submissions that the ledger knows no job of.

    Look with `seen_jobs(..., jobs=None)`, so that accounts can be searched by name. A submission whose process still
    lives on its host (`Submission.host`, `pid`) may be waiting for sbatch: that is for the caller to find out.

    Args:
        histories: the attempts of the runs. Without accounting a job is forgotten minutes after its end; a worker that
            it started is then the only trace.
    """
    found = Orphans()
    known = {submission.job for submission in submissions if submission.job}
    for submission in submissions:
        if submission.job or submission.abandoned is not None:
            continue
        named = snapshot.jobs_named(submission.id) or _started(submission, histories or {}, known)
        if named:
            found.adopted[submission.id] = min(named, key=lambda job: (len(job), job))
        elif _would_be_seen(submission, snapshot):
            found.never_reached.append(submission.id)
        else:
            found.unknown.append(submission.id)
    return found


def _started(submission: Submission, histories: Mapping[str, History], known: set[str]) -> set[str]:
    """The jobs, none of them another submission's, in which its runs were started after it."""
    attempts = [attempt for run in submission.runs if run in histories for attempt in histories[run].attempts]
    jobs = {attempt.job.partition("_")[0] for attempt in attempts if attempt.started >= submission.time}
    return jobs - known - {""}


def _would_be_seen(submission: Submission, snapshot: Snapshot) -> bool:
    """Whether a job that does not show up is sure not to exist."""
    is_old = snapshot.time - submission.time > GRACE_S
    return is_old and snapshot.queue_answers and (snapshot.accounts_answer or not snapshot.has_accounting)


@dataclass(frozen=True)
class Element:
    """The part of a submission that is one run's: an element of an array, or a job."""

    submission: Submission
    job: str
    """123_4 or 123; empty while the scheduler has not answered the submitter."""
    queued: Job | None
    """squeue's word."""
    starts: tuple[Job, ...]
    """sacct's word on each start, oldest first."""
    queue_answers: bool
    is_shared: bool = False
    """Whether another run has this job on its account: it does the same for several."""

    @property
    def live(self) -> Job | None:
        """It as it waits or runs; None when it does neither, as far as the scheduler says.

        squeue's word, for sacct lags behind it: NODE_FAIL there may be PENDING again here.
        """
        if self.queue_answers:
            return None if self.queued is None or self.queued.has_ended else self.queued
        return self.starts[-1] if self.starts and not self.starts[-1].has_ended else None

    @property
    def end(self) -> Job | None:
        """How it ended, by sacct before squeue; None when it has not, or nobody knows."""
        if self.starts and self.starts[-1].has_ended:
            return self.starts[-1]
        return self.queued if self.queued and self.queued.has_ended else None

    def has_started(self, attempt: Attempt) -> bool:
        """Whether this attempt's worker was started by it."""
        if attempt.job and self.job:
            return attempt.job == self.job or attempt.job.partition("_")[0] == self.job
        return attempt.started >= self.submission.time - _CLOCKS_AGREE_S


def elements_by_run(
    submissions: Sequence[Submission], snapshot: Snapshot, adopted: Mapping[str, str]
) -> dict[str, list[Element]]:
    """The elements of every run, oldest submission first; those of abandoned submissions are left out."""
    elements: dict[str, list[Element]] = {}
    for submission in submissions:
        if submission.abandoned is not None:
            continue
        job = submission.job or adopted.get(submission.id, "")
        for index, run in enumerate(submission.runs):
            elements.setdefault(run, []).append(element_of(submission, job, index, snapshot))
    return elements


def element_of(submission: Submission, job: str, index: int, snapshot: Snapshot) -> Element:
    """Element `index` of a submission; where the job is no array, the job itself."""
    for name in (f"{job}_{index}", job) if job else ():
        queued, starts = snapshot.queued(name), snapshot.accounted(name)
        # Another cluster on the same disk has jobs of the same numbers; a name is a submission's own.
        if queued and not is_job_of(queued.name, submission.id):
            queued = None
        starts = [start for start in starts if is_job_of(start.name, submission.id)]
        if queued or starts:
            shared = name == job and index > 0
            return Element(submission, name, queued, tuple(starts), snapshot.queue_answers, shared)
    name = f"{job}_{index}" if job and is_array(submission.stage, submission.runs) else job
    return Element(submission, name, None, (), snapshot.queue_answers)
