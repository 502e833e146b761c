"""Jobs that are there already: those that wait or run, and those of a submitter that was killed before it said so."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora_dist.dispatch.elements import GRACE_S, Orphans, element_of, orphans
from lora_dist.dispatch.scheduler import Snapshot, seen_jobs
from lora_dist.errors import ConfigError
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.histories import histories_in
from lora_dist.store.ledger import JobStage, Submission, read_submissions, write_abandoned, write_submitted
from lora_dist.store.lines import read_lines

_PATIENCE_S = 30.0
TO_THE_RECORD: tuple[JobStage, ...] = ("run", "train", "evaluate")
"""What brings a run to its record."""


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
    nodes: str


def live_runs(
    folder: ExperimentFolder, *, adopt: bool = False, stages: Sequence[JobStage] = TO_THE_RECORD
) -> dict[str, str]:
    """The jobs of these stages that wait or run, by the ids of their runs; see `live_jobs`."""
    return {job.run: job.job for job in live_jobs(folder, adopt=adopt) if job.stage in stages}


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
    snapshot, found = _asked(folder, submissions)
    if adopt:
        while found.unknown:  # too young: the cluster may have its job, and not show it yet
            oldest = min(item.time for item in submissions if item.id in found.unknown)
            time.sleep(max(0.1, oldest + GRACE_S - time.time()))
            snapshot, found = _asked(folder, submissions)
        for submission, job in found.adopted.items():
            write_submitted(folder.ledger, submission, job)
        for submission in found.never_reached:
            write_abandoned(folder.ledger, submission, "its submitter was killed before the cluster had it")
    return [job for item in submissions for job in _live(item, item.job or found.adopted.get(item.id, ""), snapshot)]


def _asked(folder: ExperimentFolder, submissions: Sequence[Submission]) -> tuple[Snapshot, Orphans]:
    """What the cluster says, and what became of those that no job is known of."""
    lost = [item.time for item in submissions if not item.job]
    snapshot = seen_jobs(min(lost, default=time.time()), _PATIENCE_S, jobs=None if lost else [])
    if not snapshot.queue_answers or (lost and snapshot.has_accounting and not snapshot.accounts_answer):
        raise ConfigError(
            key="launch.launcher", problem=f"is slurm, and {snapshot.why_silent}", fix="try again when it answers"
        )
    return snapshot, orphans(submissions, snapshot, histories_in(read_lines(folder.ledger)))


def _live(item: Submission, job: str, snapshot: Snapshot) -> Iterator[Live]:
    for index, run in enumerate(item.runs or ("",)):
        element = element_of(item, job, index, snapshot)
        if element.live is not None:
            yield Live(element.job, item.id, item.stage, run, element.live.state, element.live.nodes)
