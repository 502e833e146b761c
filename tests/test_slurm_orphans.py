"""Submissions whose submitter was killed: before the cluster had the job, or before the ledger had its number."""

from __future__ import annotations

import time

import pytest
from slurm_replies import NO_CONTROLLER, NO_DATABASE
from status_cases import SUBMISSION, Case, accounted, queued, snapshot_of

from lora_dist.dispatch.adoption import live_jobs, live_runs
from lora_dist.dispatch.elements import Orphans, orphans
from lora_dist.errors import ConfigError
from lora_dist.store.histories import histories_in
from lora_dist.store.ledger import read_submissions, write_abandoned
from lora_dist.store.lines import read_lines

OTHER = "ffff0000"
"""A submission from another disk, whose cluster gave its job the same number."""


def became(case: Case, **said) -> Orphans:
    return orphans(
        read_submissions(case.folder.ledger), snapshot_of(**said), histories_in(read_lines(case.folder.ledger))
    )


def test_a_submitter_that_was_killed_before_sbatch_leaves_a_run_to_be_submitted(tmp_path, slurm):
    row = Case(tmp_path, age=60).row()
    assert (row.state, row.reason) == ("waiting", "its job never reached SLURM")
    assert (row.cluster.job, row.cluster.action) == ("", "submit")
    assert row.cluster.next == f"lora-dist compare {tmp_path}/runs/small"


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_job_whose_submitter_was_killed_after_sbatch_is_found_by_its_name(tmp_path, slurm, state):
    slurm.says(queued(state, "Resources"))
    row = Case(tmp_path, age=60).row()
    assert (row.state, row.cluster.job) == (state.lower(), "7")


def test_a_job_that_has_ended_since_its_submitter_was_killed_is_found_in_the_accounts(tmp_path, slurm):
    slurm.says(sacct=accounted("TIMEOUT"))
    row = Case(tmp_path, age=600).row()
    assert (row.state, row.cluster.cause, row.cluster.job) == ("failed", "timeout", "7")
    (asked,) = [arguments for arguments, _ in slurm.calls() if "-X" in arguments]
    assert "-j" not in asked, "a job without a known number has to be looked for among all"


def test_an_array_is_adopted_as_a_whole(tmp_path, slurm):
    case = Case(tmp_path, points=3, age=60)
    slurm.says(queued("PENDING", "Resources", job="7_[1-2]") + queued("RUNNING", job="7_0"))
    assert [(row.state, row.cluster.job) for row in case.look().rows] == [
        ("running", "7_0"), ("pending", "7_1"), ("pending", "7_2")
    ]  # fmt: skip
    assert became(case, squeue=queued("PENDING", job="7_[1-2]")).adopted == {SUBMISSION: "7"}


def test_a_submission_too_young_to_show_up_is_left_alone(tmp_path, slurm):
    case = Case(tmp_path, age=2)
    assert became(case) == Orphans(unknown=[SUBMISSION])
    assert (case.row().state, case.row().reason) == ("pending", "being submitted")


@pytest.mark.parametrize(
    ("silent", "sacct", "found"),
    [
        ([], "", "never_reached"),
        ([], None, "never_reached"),  # without accounts the queue alone has to do
        (["squeue"], "", "unknown"),
        (["sacct"], "", "unknown"),
        (["squeue"], None, "unknown"),
        (["squeue", "sacct"], "", "unknown"),
    ],
)
def test_a_job_never_reached_the_cluster_only_if_all_that_could_know_of_it_have_answered(
    tmp_path, silent, sacct, found
):
    case = Case(tmp_path, age=3600)
    assert became(case, sacct=sacct, silent=silent) == Orphans(**{found: [SUBMISSION]})


def test_a_submission_whose_submitter_is_gone_is_unknown_while_the_scheduler_is_silent(tmp_path, slurm):
    slurm.put("squeue", error=NO_CONTROLLER, code=1)
    slurm.put("sacct", error=NO_DATABASE, code=1)
    row = Case(tmp_path, age=60).row()
    assert (row.state, row.cluster.action) == ("unknown", "wait")
    assert row.reason.startswith("its submitter has ended, and squeue failed: ")


def test_a_job_that_the_cluster_has_forgotten_is_adopted_by_the_worker_that_it_started(tmp_path, slurm):
    slurm.says(sacct=None)
    case = Case(tmp_path, points=2, age=3600).started("7_1", ago=3500, run=1).ended("failed", "the loss is NaN", run=1)
    assert became(case, sacct=None).adopted == {SUBMISSION: "7"}
    row = case.look().rows[1]
    assert (row.state, row.reason, row.cluster.job) == ("failed", "the loss is NaN", "7_1")


def test_a_worker_of_an_earlier_or_of_another_job_adopts_nothing(tmp_path):
    before = Case(tmp_path / "before", age=60).started("5", ago=500)
    assert became(before).never_reached == [SUBMISSION]
    known = Case(tmp_path / "known", age=600).submitting("abcd9999").submitted("9", "abcd9999").started("9", ago=300)
    assert became(known).never_reached == [SUBMISSION]
    by_hand = Case(tmp_path / "hand", age=600).event("started")
    assert became(by_hand).never_reached == [SUBMISSION]


def test_of_two_jobs_of_one_name_the_first_is_adopted(tmp_path):
    """sbatch that lost its answer may have been called again by a wrapper of the site's."""
    case = Case(tmp_path, age=60)
    assert became(case, squeue=queued("PENDING", job="10") + queued("PENDING", job="9")).adopted == {SUBMISSION: "9"}


def test_an_abandoned_submission_is_no_orphan(tmp_path, slurm):
    case = Case(tmp_path, age=600)
    write_abandoned(case.folder.ledger, SUBMISSION, "sbatch refused")
    assert became(case) == Orphans()
    assert (case.row().state, case.row().cluster.job) == ("waiting", "")


def test_another_cluster_s_job_of_the_same_number_is_not_this_one(tmp_path, slurm):
    case = Case(tmp_path).submitted()
    slurm.says(queued("RUNNING", submission=OTHER), accounted("COMPLETED", submission=OTHER))
    row = case.row()
    assert (row.state, row.cluster.scheduler_state) == ("cancelled", "")
    slurm.says(queued("RUNNING", submission=OTHER), accounted("FAILED") + accounted("COMPLETED", submission=OTHER))
    assert case.row().cluster.scheduler_state == "FAILED"


def test_who_submits_next_enters_what_became_of_orphans_and_looking_alone_enters_nothing(tmp_path, slurm):
    case = Case(tmp_path, age=600).submitting("abcd9999")
    slurm.says(queued("PENDING", "Resources"))
    before = case.folder.ledger.read_text()
    assert live_runs(case.folder) == {case.run.id: "7"}
    case.row()
    assert case.folder.ledger.read_text() == before
    (live,) = live_jobs(case.folder, adopt=True)
    assert (live.job, live.submission, live.state) == ("7", SUBMISSION, "PENDING")
    adopted, never_reached = read_submissions(case.folder.ledger)
    assert (adopted.job, adopted.abandoned) == ("7", None)
    assert (never_reached.job, bool(never_reached.abandoned)) == ("", True)


def test_who_submits_next_waits_until_a_young_orphan_would_have_shown_up(tmp_path, slurm):
    case = Case(tmp_path, age=9.0)
    began = time.monotonic()
    assert live_jobs(case.folder, adopt=True) == []
    assert 0.9 < time.monotonic() - began < 5
    assert read_submissions(case.folder.ledger)[0].abandoned is not None


@pytest.mark.parametrize("command", ["squeue", "sacct"])
def test_nothing_is_submitted_while_the_cluster_does_not_say_what_is_there(tmp_path, slurm, command):
    slurm.put(command, error="slurm_load_jobs error: Zero Bytes were transmitted or received", code=1)
    case = Case(tmp_path, age=600)
    before = case.folder.ledger.read_text()
    with pytest.raises(ConfigError, match="Zero Bytes"):
        live_jobs(case.folder, adopt=True)
    assert case.folder.ledger.read_text() == before


def test_who_submits_next_adopts_a_forgotten_job_by_the_worker_that_it_started(tmp_path, slurm):
    slurm.says(sacct=None)
    case = Case(tmp_path, age=3600).started("7", ago=3500).ended("failed", "the loss is NaN")
    assert live_jobs(case.folder, adopt=True) == []
    (submission,) = read_submissions(case.folder.ledger)
    assert (submission.job, submission.abandoned) == ("7", None)
