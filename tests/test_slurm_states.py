"""Every state of SLURM's, with accounts and without: what it means for a run, and what there is to do."""

from __future__ import annotations

import pytest
from status_cases import Case, accounted, queued

from lora_dist.store.ledger import write_cancelled, write_requeued

RETRY = {"resume", "retry", "retry_elsewhere", "mend"}
ENDS = {
    # state: the run's state, the cause, what there is to do
    "PREEMPTED": ("interrupted", "preempted", "resume"),
    "NODE_FAIL": ("interrupted", "node_fail", "retry_elsewhere"),
    "BOOT_FAIL": ("interrupted", "node_fail", "retry_elsewhere"),
    "OUT_OF_MEMORY": ("failed", "out_of_memory", "mend"),
    "FAILED": ("failed", "failed", "mend"),
    "DEADLINE": ("failed", "deadline", "mend"),
    "CANCELLED": ("cancelled", "cancelled", "retry"),
    "TIMEOUT": ("failed", "timeout", "mend"),
    "COMPLETED": ("lost", "lost", "retry"),
}
ACCOUNTS = pytest.mark.parametrize("has_accounts", [True, False], ids=["accounts", "no accounts"])


def say_end(slurm, state: str, has_accounts: bool, **facts) -> None:
    """The job has ended: in the accounts, or, where there are none, for some minutes in the queue."""
    slurm.says(sacct=accounted(state, **facts)) if has_accounts else slurm.says(queued(state), None)


@ACCOUNTS
@pytest.mark.parametrize("state", ["PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD"])
def test_a_job_that_waits_tells_its_reason(tmp_path, slurm, state, has_accounts):
    slurm.says(queued(state, "Resources"), accounted("PENDING", 0) if has_accounts else None)
    row = Case(tmp_path).submitted().row()
    assert (row.state, row.cluster.action, row.cluster.next) == ("pending", "wait", "")
    assert row.reason == ("Resources" if state == "PENDING" else f"{state}; Resources")
    assert (row.cluster.scheduler_state, row.cluster.scheduler_reason) == (state, "Resources")


@ACCOUNTS
@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_a_job_that_runs_shows_how_far_its_worker_is(tmp_path, slurm, state, has_accounts):
    slurm.says(queued(state, left="1-01:00:00"), accounted("RUNNING") if has_accounts else None)
    row = Case(tmp_path).submitted().started().beats("evaluate", 3, 4).row()
    assert (row.state, row.stage, row.done, row.total) == ("running", "evaluate", 3, 4)
    assert (row.cluster.nodes, row.cluster.time_left_s) == ("node1", 25 * 3600)


@ACCOUNTS
@pytest.mark.parametrize("end", ENDS)
def test_a_job_that_ended_says_what_there_is_to_do(tmp_path, slurm, end, has_accounts):
    say_end(slurm, end, has_accounts)
    row = Case(tmp_path).submitted().row()
    assert (row.state, row.cluster.cause, row.cluster.action) == ENDS[end]
    assert row.cluster.scheduler_state == end
    assert row.reason
    assert (f"lora-dist retry {tmp_path}" in row.cluster.next) == (row.cluster.action in RETRY)


@ACCOUNTS
@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("NODE_FAIL", ["NODE_FAIL on node1"]),
        ("OUT_OF_MEMORY", ["on node1", "train.micro_batch_size", "zero3", "launch.slurm.memory"]),
        ("TIMEOUT", ["launch.slurm.time", "train.checkpoint_steps"]),
        ("DEADLINE", ["--deadline"]),
        ("COMPLETED", ["no record"]),
    ],
)
def test_a_reason_names_the_node_or_the_setting_to_change(tmp_path, slurm, end, words, has_accounts):
    say_end(slurm, end, has_accounts)
    reason = Case(tmp_path).submitted().row().reason
    assert [word for word in words if word not in reason] == []


def beaten(case: Case, done: int) -> None:
    case.started().event("resumed", step=40).beats("train", done, ago=300)


def saved(case: Case, step: int) -> None:
    case.started().event("resumed", step=40).ended("interrupted", "saved")
    write_requeued(case.folder.ledger, case.run.id, cause="timeout", job="7", step=step, steps=100, stage="train")


def closed(case: Case, done: int) -> None:
    case.started().event("resumed", step=40)
    case.event("ended", outcome="lost", seconds=60.0, stage="train", done=done, total=100)


@ACCOUNTS
@pytest.mark.parametrize("told_by", [beaten, saved, closed])
@pytest.mark.parametrize("step", [40, 41])
def test_a_time_limit_is_forgiven_only_if_the_step_has_advanced(tmp_path, slurm, told_by, step, has_accounts):
    case = Case(tmp_path).submitted()
    told_by(case, step)
    say_end(slurm, "TIMEOUT", has_accounts)
    row = case.row()
    state, action = ("interrupted", "resume") if step > 40 else ("failed", "mend")
    assert (row.state, row.cluster.cause, row.cluster.action) == (state, "timeout", action)


def test_a_time_limit_met_before_the_worker_began_is_not_forgiven_for_what_an_earlier_job_did(tmp_path, slurm):
    case = Case(tmp_path).submitted()
    closed(case, 90)
    case.submitting("abcd9999", age=400).submitted("9", "abcd9999")
    slurm.says(sacct=accounted("NODE_FAIL") + accounted("TIMEOUT", job="9", submission="abcd9999", ago=390))
    row = case.row()
    assert (row.state, row.cluster.cause, row.cluster.action) == ("failed", "timeout", "mend")


@pytest.mark.parametrize(("who", "named"), [("by 0", "by root"), ("by 987654", "by 987654")])
def test_who_cancelled_a_job_is_said_and_whether_it_had_saved(tmp_path, slurm, who, named):
    slurm.says(sacct=accounted(f"CANCELLED {who}"))
    assert Case(tmp_path / "a").submitted().row().reason == f"cancelled {named}"
    saved = Case(tmp_path / "b").submitted().started().ended("interrupted", "saved")
    assert saved.row().reason == f"cancelled {named}, saved before"


@ACCOUNTS
def test_a_cancel_of_ours_is_known_when_the_cluster_has_forgotten_the_job(tmp_path, slurm, has_accounts):
    slurm.says(sacct="" if has_accounts else None)
    case = Case(tmp_path).submitted().started()
    write_cancelled(case.folder.ledger, "abcd1234")
    row = case.row()
    assert (row.state, row.cluster.cause, row.cluster.action) == ("cancelled", "cancelled", "retry")


@ACCOUNTS
def test_a_pruning_that_completed_leaves_its_run_to_be_submitted(tmp_path, slurm, has_accounts):
    case = Case(tmp_path, age=900)
    case.submitting("abcd0006", stage="prune", age=800).submitted("6", "abcd0006")
    case.event("abandoned", submission="abcd1234", why="refused")
    if has_accounts:
        slurm.says(sacct=accounted("COMPLETED", job="6", submission="abcd0006"))
    else:
        slurm.says(queued("COMPLETED", job="6", submission="abcd0006"), None)
    row = case.row()
    assert (row.state, row.reason, row.cluster.action) == ("waiting", "pruned, and not yet measured", "submit")
    assert row.cluster.next == f"lora-dist compare {case.folder.path}"


def test_each_element_of_an_array_has_its_own_end(tmp_path, slurm):
    case = Case(tmp_path, points=5).submitted()
    ends = ["COMPLETED", "TIMEOUT", "OUT_OF_ME+", "NODE_FAIL"]
    slurm.says(
        queued("RUNNING", job="7_4"),
        "".join(accounted(end, job=f"7_{index}") for index, end in enumerate(ends)) + accounted("RUNNING", job="7_4"),
    )
    case.finish(case.runs[0], 2.5, steps=1)
    rows = case.look().rows
    assert [row.state for row in rows] == ["completed", "failed", "failed", "interrupted", "running"]
    assert [row.cluster.job for row in rows] == [f"7_{index}" for index in range(5)]
