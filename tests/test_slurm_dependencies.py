"""What a job waits for, and what becomes of it when that fails."""

from __future__ import annotations

import pytest
from status_cases import Case, accounted, queued

from lora_dist.store.ledger import write_cancelled

NEVER = "DependencyNeverSatisfied"
PRUNE, RUN, REPORT = "aaaa0006", "aaaa0007", "aaaa0008"


def pruned_first(path, points: int = 1) -> Case:
    """Job 6 prunes, job (or array) 7 does the runs after it, job 8 the report after that."""
    case = Case(path, points=points)
    case.event("abandoned", submission="abcd1234", why="of no use here")
    case.submitting(PRUNE, stage="prune", runs=[case.runs[0].id]).submitted("6", PRUNE)
    case.submitting(RUN, after=[PRUNE]).submitted("7", RUN)
    return case.submitting(REPORT, stage="report", runs=[], after=[PRUNE, RUN]).submitted("8", REPORT)


def pruning(state: str, reason: str = "None") -> str:
    return queued(state, reason, job="6", submission=PRUNE)


def waiting(reason: str, *, job: str = "7", state: str = "PENDING") -> str:
    return queued(state, reason, job=job, submission=RUN)


def test_a_run_whose_pruning_waits_or_runs_shows_that_job(tmp_path, slurm):
    case = pruned_first(tmp_path)
    slurm.says(pruning("PENDING", "Resources") + waiting("Dependency"))
    row = case.row()
    assert (row.state, row.stage, row.reason, row.cluster.job) == ("pending", "prune", "Resources", "6")
    slurm.says(pruning("RUNNING") + waiting("Dependency"))
    row = case.started("6").beats("prune", 1, 2).row()
    assert (row.state, row.stage, row.done, row.cluster.job) == ("running", "prune", 1, "6")


def test_a_pending_job_names_the_job_that_it_waits_for(tmp_path, slurm):
    case = pruned_first(tmp_path)
    slurm.says(waiting("Dependency"), accounted("COMPLETED", job="6", submission=PRUNE))
    assert case.row().reason == "Dependency (job 6)"
    slurm.says(waiting("Dependency", state="REQUEUE_HOLD"))
    assert case.row().reason == "REQUEUE_HOLD; Dependency (job 6)"
    slurm.says(waiting("Priority"))
    assert case.row().reason == "Priority"


def test_a_pending_job_names_a_job_that_was_found_by_its_name(tmp_path, slurm):
    case = Case(tmp_path, points=2)
    case.event("abandoned", submission="abcd1234", why="of no use here")
    case.submitting(PRUNE, stage="prune", runs=[case.runs[0].id])  # its submitter was killed, and went on
    case.submitting(RUN, after=[PRUNE]).submitted("7", RUN)
    slurm.says(pruning("RUNNING") + waiting("Dependency", job="7_[0-1]"))
    assert case.look().rows[1].reason == "Dependency (job 6)"


@pytest.mark.parametrize(
    "how", ["FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED by 0"]
)  # fmt: skip
def test_a_job_that_would_wait_for_ever_has_failed_and_says_for_what(tmp_path, slurm, how):
    slurm.says(waiting(NEVER), accounted(how, job="6", submission=PRUNE))
    row = pruned_first(tmp_path).row()
    assert (row.state, row.cluster.cause, row.cluster.action, row.cluster.job) == ("failed", "dependency", "mend", "7")
    assert row.reason == f"{NEVER}: its prune job 6 ended {how.split()[0]}"


def test_where_nobody_knows_how_it_ended_the_job_that_failed_is_named_alone(tmp_path, slurm):
    slurm.says(waiting(NEVER), None)
    assert pruned_first(tmp_path).row().reason == f"{NEVER}: job 6, which it waits for, has failed"


def test_every_element_of_an_array_that_would_wait_for_ever_has_failed(tmp_path, slurm):
    case = pruned_first(tmp_path, points=3)
    slurm.says("".join(waiting(NEVER, job=f"7_{n}") for n in range(3)), accounted("FAILED", job="6", submission=PRUNE))
    rows = case.look().rows
    assert [(row.state, row.cluster.cause, row.cluster.job) for row in rows] == [
        ("failed", "dependency", f"7_{n}") for n in range(3)
    ]
    assert case.look().is_settled


def test_a_job_that_waits_is_believed_before_one_that_would_wait_for_ever(tmp_path, slurm):
    case = pruned_first(tmp_path)
    case.submitting("aaaa0009", age=60).submitted("9", "aaaa0009")
    slurm.says(waiting(NEVER) + queued("PENDING", "Priority", job="9", submission="aaaa0009"))
    assert (case.row().state, case.row().cluster.job) == ("pending", "9")


@pytest.mark.parametrize(
    ("said", "state", "cause"),
    [("CANCELLED", "failed", "dependency"), ("CANCELLED by 1000", "cancelled", "cancelled")],
)
def test_a_job_that_the_cluster_cancelled_for_its_dependency_is_none_that_a_person_cancelled(
    tmp_path, slurm, said, state, cause
):
    ends = accounted("FAILED", job="6", submission=PRUNE) + accounted(said, 0, job="7", submission=RUN)
    slurm.says(sacct=ends)
    row = pruned_first(tmp_path).row()
    assert (row.state, row.cluster.cause) == (state, cause)
    assert (NEVER in row.reason) == (state == "failed")


def test_a_cancelled_job_that_waited_for_none_was_cancelled_by_somebody(tmp_path, slurm):
    slurm.says(sacct=accounted("CANCELLED", 0))
    assert Case(tmp_path).submitted().row().state == "cancelled"


def test_without_accounts_the_queue_tells_of_a_job_that_was_cancelled_for_its_dependency(tmp_path, slurm):
    slurm.says(waiting(NEVER, state="CANCELLED"), None)
    assert pruned_first(tmp_path).row().cluster.cause == "dependency"


@pytest.mark.parametrize("has_accounts", [True, False], ids=["accounts", "no accounts"])
def test_what_we_cancelled_is_not_taken_for_a_failed_dependency(tmp_path, slurm, has_accounts):
    """squeue, unlike sacct, does not say who cancelled a job."""
    case = pruned_first(tmp_path)
    for submission in (PRUNE, RUN, REPORT):
        write_cancelled(case.folder.ledger, submission)
    if has_accounts:
        slurm.says(sacct=accounted("CANCELLED", 0, job="7", submission=RUN))
    else:
        slurm.says(waiting("Dependency", state="CANCELLED"), None)
    row = case.row()
    assert (row.state, row.cluster.cause) == ("cancelled", "cancelled")


def test_the_job_that_writes_the_report_is_told_under_the_table(tmp_path, slurm):
    case = pruned_first(tmp_path)
    slurm.says(waiting("Priority") + queued("PENDING", "Dependency", job="8", submission=REPORT))
    assert case.look().notes == ("report: PENDING, Dependency (job 8)",)
    slurm.says(sacct=accounted("COMPLETED", 4, job="8", submission=REPORT))
    assert case.look().notes == ("report: COMPLETED (job 8)",)
    slurm.says(sacct=None)
    assert case.look().notes[-1] == "report: job 8 is in no queue"
