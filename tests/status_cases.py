"""Experiments whose runs are jobs of a cluster, for the tests of `status`: what the ledger, the run folders and SLURM's
own lines say of them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from slurm_replies import sacct_line, squeue_line
from test_reporting_synthetic import Synthetic

from lora_dist.dispatch.scheduler import Snapshot
from lora_dist.dispatch.scheduler_words import Job, sacct_jobs, squeue_jobs
from lora_dist.reporting.status_table import StatusRow
from lora_dist.store.folders import RunFolder
from lora_dist.store.ledger import ENDED, STARTED, JobStage, write_event, write_submitted, write_submitting
from lora_dist.store.lock import exclusive
from lora_dist.verbs.status import Look, looks

SUBMISSION = "abcd1234"
AGE_S, SINCE_START_S = 600.0, 500.0


class Case(Synthetic):
    """An experiment of one arm; its runs are a submission that was about to be made `age` seconds ago."""

    def __init__(self, path: Path, *, points: int = 1, age: float = AGE_S) -> None:
        rates = [1e-4 * (1 + index) for index in range(points)]
        arms = {"sweep": {"grid": {"train.learning_rate": rates}}}
        super().__init__(path / "runs" / "small", arms, launch={"launcher": "slurm"})
        for run in self.runs:
            self.folder.run(run.id).create(run.model_dump(mode="json"))
        self.submitting(SUBMISSION, age=age)

    @property
    def run(self) -> RunFolder:
        """The folder of the first run."""
        return self.folder.run(self.runs[0].id)

    def submitting(
        self,
        submission: str,
        *,
        stage: JobStage = "run",
        age: float = AGE_S,
        gpus: int = 2,
        runs: Sequence[str] | None = None,
        after: Sequence[str] = (),
    ) -> Case:
        """A submitter says what it is about to do."""
        write_submitting(
            self.folder.ledger, submission, job_name=f"small-lora.{submission}", stage=stage, after=after,
            runs=[run.id for run in self.runs] if runs is None else runs, resources={"nodes": 1, "gpus": gpus},
        )  # fmt: skip
        *before, last = self.folder.ledger.read_text().splitlines()
        older = json.dumps({**json.loads(last), "time": time.time() - age})
        self.folder.ledger.write_text("".join(f"{line}\n" for line in [*before, older]))
        return self

    def submitted(self, job: str = "7", submission: str = SUBMISSION) -> Case:
        """The cluster has taken it."""
        write_submitted(self.folder.ledger, submission, job)
        return self

    def event(self, kind: str, *, run: int = 0, **facts: object) -> Case:
        """Something happens to a run."""
        write_event(self.folder.ledger, self.runs[run].id, kind, **facts)
        return self

    def started(
        self, job: str = "7", restart: int = 0, *, gpus: int = 2, ago: float = SINCE_START_S, run: int = 0
    ) -> Case:
        """A job's worker begins."""
        return self.event(
            STARTED, run=run, job=job, restart=restart, gpus=gpus, nodes="node1", time=time.time() - ago
        )  # fmt: skip

    def ended(self, outcome: str, message: str = "", *, seconds: float = 360.0, run: int = 0, **facts: object) -> Case:
        """A worker says how its attempt ended."""
        self.folder.run(self.runs[run].id).write_outcome(outcome, message)
        return self.event(ENDED, run=run, outcome=outcome, seconds=seconds, **facts)

    def beats(self, stage: str, done: int, total: int = 100, *, ago: float = 0.0, lived: float = 60.0) -> Case:
        """The newest word of a worker that had lived so long by then."""
        when = time.time() - ago
        beat = {"stage": stage, "done": done, "total": total, "text": "", "time": when}
        self.run.heartbeat.write_text(json.dumps({**beat, "attempt_started": when - lived, "pid": 1}))
        return self

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While a process has the first run's lock: this one."""
        with exclusive(self.run.lock):
            yield

    def look(self) -> Look:
        """What `status` makes of it now; with the `slurm` fixture's commands."""
        return next(looks(self.folder.path))

    def row(self) -> StatusRow:
        """The first run, as `status` sees it."""
        return self.look().rows[0]


def queued(state: str, reason: str = "None", *, job: str = "7", submission: str = SUBMISSION, **said: object) -> str:
    """squeue on a job of the case."""
    told = {"nodes": "" if state == "PENDING" else "node1", "left": "50:00"} | said
    return squeue_line(job, state, f"small-lora.{submission}", reason, **told)


def accounted(
    state: str,
    elapsed: int = 360,
    *,
    gpus: int | None = 2,
    job: str = "7",
    submission: str = SUBMISSION,
    ago: float = SINCE_START_S,
    **said: object,
) -> str:
    """sacct on one start of a job of the case, `ago` seconds ago."""
    start = int(time.time() - ago)
    told = {"start": start, "end": start + elapsed} if elapsed else {"nodes": "None assigned"}
    return sacct_line(job, state, f"small-lora.{submission}", elapsed, gpus, **{**told, **said})


def snapshot_of(
    squeue: str = "", sacct: str | None = "", *, now: float | None = None, silent: Sequence[str] = ()
) -> Snapshot:
    """What is seen of these lines, without two processes: for properties that are tried a hundred times.

    Args:
        sacct: None is a cluster without accounts.
        silent: the commands that do not answer.
    """
    accounts: dict[str, list[Job]] = {}
    for job in sacct_jobs(sacct or "") if "sacct" not in silent else ():
        accounts.setdefault(job.id, []).append(job)
    return Snapshot(
        time=time.time() if now is None else now,
        queue={job.id: job for job in squeue_jobs(squeue)} if "squeue" not in silent else {},
        accounts=accounts,
        said_nothing=dict.fromkeys(silent, "did not answer in time"),
        has_accounting=sacct is not None,
    )
