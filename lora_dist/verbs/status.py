"""status: where every run of an experiment is, and what the cluster says of its jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Run
from lora_dist.config.loading import load_experiment
from lora_dist.dispatch.elements import Element, Orphans, element_of, orphans
from lora_dist.dispatch.reconcile import Row, reconcile
from lora_dist.dispatch.scheduler import Snapshot, seen_jobs
from lora_dist.reporting.status_table import ClusterFacts, StatusRow, row_of
from lora_dist.store.folders import open_experiment_folder
from lora_dist.store.histories import histories_in
from lora_dist.store.ledger import Submission, submissions_in
from lora_dist.store.lines import read_lines
from lora_dist.store.states import RunState, run_states
from lora_dist.verbs.failures import explained

INTERVAL_S = 5.0
UNSETTLED = frozenset({"running", "pending", "unknown"})
"""States that change by themselves."""


@dataclass(frozen=True)
class Look:
    """Where the runs of an experiment are at one moment."""

    rows: list[StatusRow]
    notes: tuple[str, ...] = ()
    """What concerns no single run: a scheduler that is silent, the job that writes the report."""
    is_report_due: bool = False
    """Whether that job waits or runs. It may submit runs again."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing runs, nor waits in a queue."""
        return not self.is_report_due and not any(row.state in UNSETTLED for row in self.rows)


def status(folder: Path | str) -> list[StatusRow]:
    """The state of every run in an experiment's folder; with what failed runs of a cluster tell.

    Raises:
        StorageError: it is not an experiment's folder.
    """
    return explained(next(looks(folder)).rows, folder)


def looks(folder: Path | str, interval_s: float = INTERVAL_S) -> Iterator[Look]:
    """Look at an experiment now, and again every `interval_s` seconds until it is settled.

    Only experiments that jobs were submitted for have the scheduler asked, with two commands at most for each look.

    Raises:
        StorageError: it is not an experiment's folder.
        Refused, ConfigError: its experiment.yaml is not an experiment.
    """
    place = open_experiment_folder(Path(folder))
    runs = expand(load_experiment(place.experiment))
    ids = [run.id for run in runs]  # a hash each: worth taking once
    has_accounting = True
    while True:
        events = list(read_lines(place.ledger))
        states, submissions = run_states(place, ids, histories_in(events)), submissions_in(events)
        if submissions:
            snapshot = _ask(submissions, has_accounting)
            has_accounting = snapshot.has_accounting
            look = _look(runs, states, submissions, snapshot)
        else:
            look = Look([row_of(run.label, at) for run, at in zip(runs, states, strict=True)])
        yield look
        if look.is_settled:
            return
        time.sleep(interval_s)


def _ask(submissions: Sequence[Submission], has_accounting: bool) -> Snapshot:
    kept = [submission for submission in submissions if submission.abandoned is None]
    jobs = [submission.job for submission in kept]
    since = min((submission.time for submission in kept), default=time.time())
    return seen_jobs(since, jobs=jobs if all(jobs) else None, has_accounting=has_accounting)


def _look(
    runs: Sequence[Run], states: Sequence[RunState], submissions: Sequence[Submission], snapshot: Snapshot
) -> Look:
    histories = {at.folder.id: at.history for at in states}
    found = orphans(submissions, snapshot, histories)
    rows = reconcile(states, submissions, snapshot, found)
    shown = [_shown(run.label, at, row) for run, at, row in zip(runs, states, rows, strict=True)]
    reports = [submission for submission in submissions if submission.stage == "report"]
    notes = [*_notes(snapshot), *(_report_note(one, snapshot, found) for one in reports[-1:])]
    return Look(shown, tuple(notes), any(_report_job(one, snapshot, found).live for one in reports[-1:]))


def _shown(label: str, at: RunState, row: Row) -> StatusRow:
    facts = ClusterFacts(
        job=row.job,
        scheduler_state=row.scheduler_state,
        scheduler_reason=row.scheduler_reason,
        nodes=row.nodes,
        time_left_s=row.left_s,
        gpu_hours_useful=row.gpu_hours_useful,
        gpu_hours_lost=row.gpu_hours_lost,
        cause=row.cause,
        action=row.action,
        next=row.next,
    )
    of_folder = row_of(label, at)
    return replace(
        of_folder, state=row.state, stage=row.stage, done=row.done, total=row.total, attempts=row.attempts,
        reason=row.reason, cluster=facts,
    )  # fmt: skip


def _notes(snapshot: Snapshot) -> Iterator[str]:
    for command, why in snapshot.said_nothing.items():
        yield f"{command} {why}: what it would have said is not in this table"
    if not snapshot.has_accounting:
        yield "this cluster keeps no accounts: how jobs ended is known from their workers alone"


def _report_job(submission: Submission, snapshot: Snapshot, found: Orphans) -> Element:
    return element_of(submission, submission.job or found.adopted.get(submission.id, ""), 0, snapshot)


def _report_note(submission: Submission, snapshot: Snapshot, found: Orphans) -> str:
    element = _report_job(submission, snapshot, found)
    job, said = element.job, element.live or element.end
    if submission.abandoned is not None or submission.id in found.never_reached:
        return "report: it has no job"
    if said is None:
        return f"report: {f'job {job} is in no queue' if job and snapshot.queue_answers else 'not known'}"
    return f"report: {said.state}{f', {said.reason}' if said.reason else ''} (job {job})"
