"""The last job of an experiment on a cluster: its report, and once more the runs that the cluster has ended."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lora_dist.config.loading import load_experiment
from lora_dist.config.profile import with_profile
from lora_dist.dispatch.adoption import TO_THE_RECORD
from lora_dist.dispatch.elements import GRACE_S
from lora_dist.dispatch.reconcile import FRESH_S
from lora_dist.errors import WorkerCrashed
from lora_dist.reporting.status_table import StatusRow
from lora_dist.store.folders import open_experiment_folder
from lora_dist.store.ledger import Submission, read_submissions
from lora_dist.verbs.report import report
from lora_dist.verbs.status import INTERVAL_S, UNSETTLED, Look, looks
from lora_dist.world import without_job

_OF_THE_CLUSTER = frozenset({"timeout", "preempted", "node_fail", "node_unfit"})
_GO_ON = frozenset({"resume", "retry_elsewhere"})


def close(path: Path) -> None:
    """Write the report, then submit again what `ended_by_cluster` names, with a report after it.

    A run that was told in time gives its job back by itself; this is for those that had no time to, or whose machine
    had gone.

    Raises:
        StorageError: it is not an experiment's folder.
        WorkerCrashed: `lora-dist retry` has failed; it has printed why.
    """
    folder = open_experiment_folder(path)
    report([path])
    most = with_profile(load_experiment(folder.experiment).launch.slurm).resubmissions
    look = next(looks(path))
    if not most or all(row.state == "completed" for row in look.rows):
        return
    again = ended_by_cluster(_when_settled(path).rows, read_submissions(folder.ledger), most)
    if again:
        sys.stdout.write(f"submitted again, as the cluster has ended them: {' '.join(again)}\n")
        sys.stdout.flush()
        command = [sys.executable, "-m", "lora_dist", "retry", str(path), *again]
        done = subprocess.run(command, check=False, env=without_job())  # noqa: S603 - this very program
        if done.returncode != 0:
            raise WorkerCrashed(f"`lora-dist retry` ended with code {done.returncode}; type it yourself")


def _when_settled(path: Path) -> Look:
    """Where the runs are once the accounts have come up and the last heartbeat of a node that died is old."""
    deadline = time.monotonic() + FRESH_S + GRACE_S
    time.sleep(GRACE_S)
    while True:
        look = next(looks(path))
        if not any(row.state in UNSETTLED for row in look.rows) or time.monotonic() > deadline:
            return look
        time.sleep(INTERVAL_S)


def ended_by_cluster(rows: Sequence[StatusRow], submissions: Sequence[Submission], most: int) -> list[str]:
    """The runs whose time limit, node or place the cluster took away, and that would get further in another job.

    Args:
        most: how often a run may be submitted again.
    """
    stages = Counter((run, item.stage) for item in submissions if item.stage in TO_THE_RECORD for run in item.runs)
    counts = {run: max(stages[run, stage] for stage in TO_THE_RECORD) for run, _ in stages}
    return [
        row.run
        for row in rows
        if row.cluster is not None
        and row.cluster.cause in _OF_THE_CLUSTER
        and row.cluster.action in _GO_ON
        and counts.get(row.run, 0) <= most
    ]
