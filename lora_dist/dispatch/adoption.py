"""Jobs that are there already: those that wait or run, and those of a submitter that was killed before it said so."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lora_dist.dispatch.scheduler import Snapshot, seen_jobs
from lora_dist.errors import ConfigError
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.ledger import Submission, read_submissions, write_abandoned, write_submitted

_PATIENCE_S = 30.0
_TAKES_S = 5.0
"""sbatch may have been killed after the cluster had its job, and before the queue shows it."""


@dataclass(frozen=True)
class Live:
    """A job, or an element of an array, that waits or runs."""

    job: str
    """123, or 123_4."""
    submission: str
    stage: str
    run: str
    """Its run's id; empty for a report."""
    state: str
    """SLURM's word."""
    node: str


def live_runs(folder: ExperimentFolder, *, adopt: bool = False) -> dict[str, str]:
    """The jobs that wait or run by the ids of their runs; see `live_jobs`."""
    return {job.run: job.job for job in live_jobs(folder, adopt=adopt) if job.stage == "run"}


def live_jobs(folder: ExperimentFolder, *, adopt: bool = False) -> list[Live]:
    """The jobs of an experiment that wait or run, by its ledger and the cluster's queue.

    Args:
        adopt: write into the ledger what became of submissions whose submitter was killed. Only under the lock of
            submitting: otherwise it may be at work on them.
    Raises:
        ConfigError: the cluster does not answer: what is there cannot be known, and nothing may be submitted twice.
    """
    submissions = [item for item in read_submissions(folder.ledger) if item.abandoned is None]
    if not submissions:
        return []
    snapshot = _asked(submissions)
    if adopt:
        submissions, snapshot = _adopted(submissions, snapshot, folder)
    return [job for item in submissions for job in _live(item, snapshot)]


def _asked(submissions: Sequence[Submission]) -> Snapshot:
    lost = [item for item in submissions if not item.job]
    since = min((item.time for item in lost), default=time.time())
    snapshot = seen_jobs(since, _PATIENCE_S, jobs=None if lost else [])
    if not snapshot.queue_answers:
        raise ConfigError(
            key="launch.launcher", problem=f"the cluster says nothing: {snapshot.why_silent}", fix="try again later"
        )
    return snapshot


def _live(item: Submission, snapshot: Snapshot) -> Iterator[Live]:
    job = item.job or next(iter(snapshot.jobs_named(item.id)), "")
    if not job:
        return
    runs = item.runs or ("",)
    for element, run in enumerate(runs):
        seen = snapshot.queued(f"{job}_{element}" if len(runs) > 1 else job)
        if seen is not None and not seen.has_ended:
            yield Live(f"{job}_{element}" if len(runs) > 1 else job, item.id, item.stage, run, seen.state, seen.nodes)


def _adopted(
    submissions: Sequence[Submission], snapshot: Snapshot, folder: ExperimentFolder
) -> tuple[list[Submission], Snapshot]:
    """Enter into the ledger what became of those that no job is known of."""
    lost = [item for item in submissions if not item.job]
    wait = max((item.time + _TAKES_S - time.time() for item in lost), default=0.0)
    if wait > 0:
        time.sleep(min(wait, _TAKES_S))
        snapshot = _asked(submissions)
    found = []
    for item in submissions:
        job = item.job or next(iter(snapshot.jobs_named(item.id)), "")
        if not job:
            write_abandoned(folder.ledger, item.id, "its submitter was killed before the cluster had it")
            continue
        if not item.job:
            write_submitted(folder.ledger, item.id, job)
        found.append(replace(item, job=job))
    return found, snapshot
