"""status over recorded words of SLURM 22.05: who is believed, what each end of a job means, in how many questions."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY, run_cli
from status_cases import Case, accounted, queued

from lora_dist.dispatch.elements import orphans
from lora_dist.dispatch.scheduler import seen_jobs
from lora_dist.store.ledger import read_submissions, write_requeued

NOT_INSTALLED = None


def told(case: Case) -> dict:
    """The first run in the JSON."""
    done = run_cli("status", case.folder.path, "--json", cwd=case.folder.path)
    assert done.code in (0, 3), done.err
    return json.loads(done.out)[0]


ENDS = {
    "PENDING": (queued("PENDING", "Resources"), "", "pending", ""),
    "never": (queued("PENDING", "DependencyNeverSatisfied"), "", "failed", "dependency"),
    "RUNNING": (queued("RUNNING"), accounted("RUNNING"), "running", ""),
    "COMPLETED without a record": ("", accounted("COMPLETED"), "lost", "lost"),
    "PREEMPTED": ("", accounted("PREEMPTED"), "interrupted", "preempted"),
    "TIMEOUT": ("", accounted("TIMEOUT"), "failed", "timeout"),
    "NODE_FAIL": ("", accounted("NODE_FAIL"), "interrupted", "node_fail"),
    "OUT_OF_MEMORY": ("", accounted("OUT_OF_ME+", code="0:125"), "failed", "out_of_memory"),
    "FAILED": ("", accounted("FAILED", code="7:0"), "failed", "failed"),
    "CANCELLED": ("", accounted("CANCELLED by 0"), "cancelled", "cancelled"),
    "DEADLINE": ("", accounted("DEADLINE"), "failed", "deadline"),
    # sacct lags: the cluster has started the job again already
    "NODE_FAIL and PENDING": (queued("PENDING", "BeginTime"), accounted("NODE_FAIL"), "pending", ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_a_job_s_end_means_for_its_run(tmp_path, slurm, end):
    queue, accounts, state, cause = ENDS[end]
    slurm.says(queue, accounts)
    row = told(Case(tmp_path).submitted())
    assert (row["state"], row["cluster"]["cause"]) == (state, cause)
    if state == "failed":
        assert row["reason"]
    if end == "OUT_OF_MEMORY":
        assert "micro_batch_size" in row["reason"]
    if end == "RUNNING":
        assert row["cluster"]["time_left_s"] == 3000
    if end == "FAILED":
        assert row["cluster"]["gpu_hours_lost"] == pytest.approx(0.2)  # 2 GPUs for 6 minutes, and no worker began
        assert "retry" in row["cluster"]["next"]


def test_what_the_worker_said_is_believed_before_the_scheduler(tmp_path, slurm):
    slurm.says(sacct=accounted("FAILED", code="2:0"))
    row = told(Case(tmp_path).submitted().started().ended("refused", "data.path: gone; give another"))
    assert (row["state"], row["reason"]) == ("refused", "data.path: gone; give another")


def test_a_requeued_run_says_why_and_where_it_goes_on(tmp_path, slurm):
    slurm.says(queued("PENDING", "BeginTime"), accounted("PREEMPTED"))
    case = Case(tmp_path).submitted().started().ended("interrupted", "saved")
    write_requeued(case.folder.ledger, case.run.id, cause="preempted", job="7", step=40, steps=100, stage="train")
    row = told(case)
    assert row["state"] == "pending"
    assert "requeued (preempted) at step 40" in row["reason"]
    assert row["cluster"]["gpu_hours_useful"] == pytest.approx(0.2)  # it saved


SILENT = {
    "squeue fails": ({"error": "no controller", "code": 1}, {}, "no controller"),
    "squeue hangs": ({"hang": 60}, {}, "did not answer"),
    "no squeue": (NOT_INSTALLED, NOT_INSTALLED, "not installed"),
}


@pytest.mark.parametrize("how", SILENT)
def test_a_scheduler_that_says_nothing_makes_no_run_dead_and_holds_nobody_up(tmp_path, slurm, how):
    *replies, why = SILENT[how]
    for command, reply in zip(("squeue", "sacct"), replies, strict=True):
        if reply is NOT_INSTALLED:
            (slurm.folder / command).unlink()
        else:
            slurm.put(command, **reply)
    case = Case(tmp_path).submitted()
    began = time.monotonic()
    assert told(case)["state"] == "unknown"
    assert time.monotonic() - began < 30, "a hang of a minute"
    assert why in run_cli("status", case.folder.path, cwd=tmp_path).out


def test_without_accounting_the_workers_and_the_queue_have_to_do(tmp_path, slurm):
    case = Case(tmp_path).submitted()
    slurm.says(queued("FAILED"), sacct=None)
    assert told(case)["state"] == "failed"
    assert "keeps no accounts" in run_cli("status", case.folder.path, cwd=tmp_path).out
    slurm.says(sacct=None)
    assert told(case)["state"] == "lost"


@pytest.mark.parametrize(
    ("queue", "accounts", "age", "found"),
    [
        (queued("PENDING"), "", 60, "adopted"),
        ("", accounted("COMPLETED"), 60, "adopted"),
        ("", "", 60, "never_reached"),
        ("", "", 1, "unknown"),
    ],
    ids=["in the queue", "in the accounts", "nowhere", "too young"],
)
def test_a_submission_without_a_job_is_found_by_its_name(tmp_path, slurm, queue, accounts, age, found):
    case = Case(tmp_path, age=age)
    slurm.says(queue, accounts)
    submissions = read_submissions(case.folder.ledger)
    became = orphans(submissions, seen_jobs(submissions[0].time))
    assert "abcd1234" in getattr(became, found)
    if found == "adopted":
        assert became.adopted == {"abcd1234": "7"}


def test_two_thousand_runs_take_two_questions(tmp_path, slurm):
    case = Case(tmp_path, points=2000).submitted()
    queue = [queued("PENDING", job=f"7_{index}") for index in range(1000, 2000)]
    accounts = [accounted("FAILED", job=f"7_{index}") for index in range(1000)]
    slurm.says("".join(queue), "".join(accounts))
    done = run_cli("status", case.folder.path, cwd=tmp_path)
    assert done.code == 3
    assert "1,000 failed" in done.out
    assert "1,000 pending" in done.out
    asked = ["squeue" if "--me" in arguments else "sacct" for arguments, _ in slurm.calls()]
    assert sorted(asked) == ["sacct", "squeue"]


def test_status_of_a_cluster_imports_no_torch(tmp_path, slurm):
    case = Case(tmp_path).submitted()
    code = (
        "import sys; from lora_dist.verbs.status import status; "
        f"status({str(case.folder.path)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
