"""Who is believed of a run: record, lock, the worker, its heartbeat, sacct on ends, squeue on what waits or runs."""

from __future__ import annotations

import time

import pytest
from slurm_replies import NO_CONTROLLER, NO_DATABASE
from status_cases import Case, accounted, queued

from lora_dist.store.ledger import write_requeued

ENDED = ["COMPLETED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "FAILED", "DEADLINE"]
SILENT = {"error": NO_CONTROLLER, "code": 1}


@pytest.mark.parametrize(
    ("queue", "accounts"),
    [
        (queued("RUNNING"), accounted("RUNNING")),  # its job only ends
        (queued("PENDING"), accounted("NODE_FAIL")),
        ("", accounted("FAILED")),
        ("", accounted("CANCELLED by 0")),
        ("", ""),
    ],
    ids=["runs", "waits", "failed", "cancelled", "unknown to it"],
)
def test_a_record_is_believed_whatever_the_scheduler_says(tmp_path, slurm, queue, accounts):
    case = Case(tmp_path).submitted()
    case.finish(case.runs[0], 2.5, steps=1)
    slurm.says(queue, accounts)
    row = case.row()
    assert (row.state, row.reason, row.cluster.cause, row.cluster.next) == ("completed", "", "", "")


@pytest.mark.parametrize(
    ("queue", "accounts"),
    [
        (queued("PENDING", "BeginTime"), accounted("PREEMPTED")),
        ("", accounted("FAILED")),
        ("", ""),
        (SILENT, SILENT),
    ],
    ids=["waits", "failed", "unknown to it", "silent"],
)
def test_a_run_whose_lock_is_held_runs_whatever_the_scheduler_says(tmp_path, slurm, queue, accounts):
    case = Case(tmp_path).submitted().started().beats("train", 3, ago=3600)
    for command, said in (("squeue", queue), ("sacct", accounts)):
        slurm.put(command, **said) if isinstance(said, dict) else slurm.put(command, said)
    with case.held():
        row = case.row()
        assert (row.state, row.stage, row.done, row.total) == ("running", "train", 3, 100)
    assert case.row().state != "running", "nobody holds it any more"


@pytest.mark.parametrize(
    ("outcome", "scheduler_says", "state", "cause"),
    [
        ("refused", "FAILED", "refused", "refused"),
        ("refused", "TIMEOUT", "refused", "refused"),
        ("failed", "COMPLETED", "failed", "failed"),  # a launcher between makes any exit code 0
        ("failed", "FAILED", "failed", "failed"),
        ("interrupted", "COMPLETED", "interrupted", "signal"),
        ("interrupted", "FAILED", "interrupted", "signal"),
    ],
)
def test_a_worker_s_own_word_on_its_end_is_believed_before_the_scheduler_s(
    tmp_path, slurm, outcome, scheduler_says, state, cause
):
    case = Case(tmp_path).submitted().started().ended(outcome, "in its own words")
    slurm.says(sacct=accounted(scheduler_says))
    row = case.row()
    assert (row.state, row.reason, row.cluster.cause) == (state, "in its own words", cause)


def test_a_worker_s_word_is_not_believed_of_a_later_job(tmp_path, slurm):
    case = Case(tmp_path).submitted().started("7").ended("refused", "data.path: gone")
    case.submitting("abcd9999", age=300).submitted("9", "abcd9999")
    slurm.says(sacct=accounted("FAILED") + accounted("FAILED", job="9", submission="abcd9999", code="127:0"))
    row = case.row()
    assert (row.state, row.cluster.job) == ("failed", "9")
    assert row.reason == "its job ended FAILED (exit code 127:0) before its worker began"


def test_a_fresh_heartbeat_is_believed_before_sacct_on_an_end(tmp_path, slurm):
    slurm.says(sacct=accounted("NODE_FAIL"))
    case = Case(tmp_path).submitted().started().beats("train", 40)
    row = case.row()
    assert (row.state, row.reason) == ("running", "by its heartbeat; it is in no queue")
    assert (row.stage, row.done) == ("train", 40)
    row = case.beats("train", 40, ago=60).row()
    assert (row.state, row.cluster.cause) == ("interrupted", "node_fail")


@pytest.mark.parametrize(
    "accounts", ["", accounted("PENDING", 0), accounted("PREEMPTED")], ids=["nothing", "waits", "preempted"]
)
def test_a_fresh_heartbeat_is_believed_while_squeue_is_silent(tmp_path, slurm, accounts):
    slurm.put("squeue", **SILENT)
    slurm.put("sacct", accounts)
    row = Case(tmp_path).submitted().started().beats("train", 40).row()
    assert row.state == "running"
    assert "connect failure" in row.reason


def test_a_heartbeat_of_an_attempt_that_has_ended_is_no_sign_of_life(tmp_path, slurm):
    slurm.says(sacct=accounted("FAILED", code="9:0"))
    case = Case(tmp_path).submitted().started().beats("train", 40)
    assert case.event("ended", outcome="lost", seconds=60.0).row().state == "failed"


@pytest.mark.parametrize("first", ENDED)
def test_what_squeue_lists_as_waiting_or_running_is_that_for_sacct_lags(tmp_path, slurm, first):
    case = Case(tmp_path).submitted().started().beats("train", 40, ago=120)
    slurm.says(queued("PENDING", "BeginTime"), accounted(first))
    assert (case.row().state, case.row().reason) == ("pending", "BeginTime")
    slurm.says(queued("RUNNING"), accounted(first))
    assert case.row().state == "running"


def test_sacct_is_believed_before_squeue_on_how_a_job_ended(tmp_path, slurm):
    slurm.says(queued("FAILED"), accounted("OUT_OF_MEMORY", code="0:125"))
    assert Case(tmp_path).submitted().row().cluster.cause == "out_of_memory"


def test_squeue_is_believed_on_an_end_that_sacct_has_not_heard_of(tmp_path, slurm):
    slurm.says(queued("TIMEOUT", "TimeLimit"), accounted("RUNNING"))
    row = Case(tmp_path).submitted().row()
    assert (row.cluster.cause, row.cluster.scheduler_reason) == ("timeout", "TimeLimit")


@pytest.mark.parametrize("may_be_back", ["PREEMPTED", "NODE_FAIL", "BOOT_FAIL"])
def test_a_job_that_may_be_in_the_queue_again_is_unknown_while_squeue_is_silent(tmp_path, slurm, may_be_back):
    slurm.put("squeue", **SILENT)
    slurm.put("sacct", accounted(may_be_back))
    row = Case(tmp_path).submitted().row()
    assert (row.state, row.cluster.action) == ("unknown", "wait")
    assert "connect failure" in row.reason
    slurm.put("sacct", accounted("FAILED"))  # no such job comes back
    assert Case(tmp_path / "other").submitted().row().state == "failed"


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("interrupted", "unknown"), ("failed", "failed"), ("refused", "refused")],
)
def test_while_the_scheduler_is_silent_only_what_a_worker_ended_for_good_has_ended(tmp_path, slurm, outcome, state):
    slurm.put("squeue", **SILENT)
    slurm.put("sacct", **SILENT)
    assert Case(tmp_path).submitted().started().ended(outcome, "why").row().state == state


def test_a_running_job_without_a_worker_or_a_word_for_long_is_remarked_upon(tmp_path, slurm):
    slurm.says(queued("RUNNING", left="1:00:00"), accounted("RUNNING"))
    case = Case(tmp_path).submitted()
    row = case.row()
    assert (row.state, row.reason, row.cluster.time_left_s) == ("running", "its worker has not begun yet", 3600)
    assert case.started().beats("train", 7, ago=1200).row().reason == "no sign of life for 20 minutes: look at its log"
    slurm.says(queued("COMPLETING"))
    assert case.row().reason == "its job is ending"


def test_the_silence_of_the_start_before_is_not_held_against_a_job_that_has_just_started_again(tmp_path, slurm):
    case = Case(tmp_path, age=4000).submitted().started(ago=3500).beats("train", 7, ago=1200)
    slurm.says(queued("RUNNING", start=int(time.time()) - 5), accounted("NODE_FAIL"))
    assert (case.row().state, case.row().reason) == ("running", "its worker has not begun yet")


def test_what_the_silent_accounts_would_have_said_of_a_job_in_no_queue_is_said(tmp_path, slurm):
    slurm.put("sacct", error=NO_DATABASE, code=1)
    case = Case(tmp_path).submitted().started().beats("train", 7, ago=300)
    assert case.row().state == "lost"
    assert "Problem talking to the database" in case.row().reason
    assert [note for note in case.look().notes if note.startswith("sacct failed: ")]


def test_a_job_in_no_queue_is_lost_only_when_it_has_had_the_time_to_get_there(tmp_path, slurm):
    slurm.says(sacct=None)
    young, old = Case(tmp_path / "young", age=2).submitted(), Case(tmp_path / "old").submitted()
    assert (young.row().state, young.row().reason) == ("pending", "just submitted")
    assert (old.row().state, old.row().cluster.cause) == ("lost", "lost")
    assert "keeps no accounts" in old.row().reason
    old.started().beats("train", 7, ago=300)
    assert "last seen in train 7/100" in old.row().reason


def test_a_job_that_left_the_accounts_before_it_began_was_cancelled(tmp_path, slurm):
    # As Slurm 22.05 leaves an element of an array that is cancelled while it is held: job 8_1 in slurm_replies.
    row = Case(tmp_path).submitted().row()
    assert (row.state, row.reason) == ("cancelled", "job 7 left the queue before it started")
    assert Case(tmp_path / "begun").submitted().started().row().state == "lost"


def test_a_state_that_no_table_knows_counts_as_waiting(tmp_path, slurm):
    slurm.says(queued("POWER_UP_NODE", "None"))
    row = Case(tmp_path).submitted().row()
    assert (row.state, row.cluster.scheduler_state) == ("pending", "POWER_UP_NODE")


def test_a_requeued_job_that_waits_says_so_only_for_its_own_attempt(tmp_path, slurm):
    case = Case(tmp_path).submitted().started().ended("interrupted", "saved")
    write_requeued(case.folder.ledger, case.run.id, cause="timeout", job="7", step=1200, steps=3000, stage="train")
    slurm.says(queued("PENDING", "BeginTime"), accounted("TIMEOUT") + accounted("PENDING", 0))
    row = case.row()
    assert row.reason == "BeginTime; requeued (timeout) at step 1,200"
    assert (row.done, row.total) == (1200, 3000)
    case.submitting("abcd9999", age=1).submitted("9", "abcd9999")
    slurm.says(queued("PENDING", "Priority", job="9", submission="abcd9999"))
    assert case.row().reason == "Priority"
