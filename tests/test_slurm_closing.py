"""What the last job of an experiment does: its report, and once more the runs that the cluster has ended."""

from __future__ import annotations

import pytest
from comparison_cases import METHODS, weights, write
from conftest import run_cli
from slurm_cases import LONG, events, launch, scores, start, trained_steps
from status_cases import SUBMISSION, Case, accounted, queued

from lora_dist.store.ledger import read_submissions
from lora_dist.verbs.closing import ended_by_cluster
from lora_dist.verbs.status import looks

ADVANCED = {"stage": "train", "done": 40, "total": 100}


@pytest.mark.parametrize(
    ("state", "comes_back"),
    [
        ("TIMEOUT", True),
        ("PREEMPTED", True),
        ("NODE_FAIL", True),
        ("BOOT_FAIL", True),
        ("OUT_OF_MEMORY", False),
        ("CANCELLED by 1000", False),
        ("FAILED", False),
        ("DEADLINE", False),
    ],
)
def test_what_the_cluster_ended_is_submitted_again_and_what_people_or_programs_ended_is_not(
    tmp_path, slurm, state, comes_back
):
    case = Case(tmp_path).submitted().started().event("ended", outcome="lost", seconds=5.0, **ADVANCED)
    slurm.says(sacct=accounted(state))
    again = ended_by_cluster(case.look().rows, read_submissions(case.folder.ledger), 3)
    assert again == ([case.runs[0].id] if comes_back else [])


def test_it_is_submitted_again_so_many_times(tmp_path, slurm):
    case = Case(tmp_path).submitted().started().event("ended", outcome="lost", seconds=5.0, **ADVANCED)
    slurm.says(sacct=accounted("TIMEOUT"))
    for most, comes_back in ((0, False), (1, True)):
        assert bool(ended_by_cluster(case.look().rows, read_submissions(case.folder.ledger), most)) == comes_back
    case.submitting("abcd0002", stage="train").submitting("abcd0003", stage="evaluate")
    assert ended_by_cluster(case.look().rows, read_submissions(case.folder.ledger), 1) == []  # its newest has no job


def test_a_time_limit_that_was_met_without_getting_further_is_not_met_again(tmp_path, slurm):
    case = Case(tmp_path).submitted().started()
    slurm.says(sacct=accounted("TIMEOUT"))
    assert case.row().state == "failed"
    assert ended_by_cluster(case.look().rows, read_submissions(case.folder.ledger), 3) == []


def test_an_experiment_is_not_settled_before_its_report_is_there(tmp_path, slurm):
    case = Case(tmp_path).submitted().submitting("abcd9999", stage="report", runs=[]).submitted("8", "abcd9999")
    ended = accounted("TIMEOUT")
    seen = looks(case.folder.path, interval_s=0.0)
    report = queued("PENDING", "Dependency", job="8", submission="abcd9999")
    slurm.says(report, ended)
    assert not next(seen).is_settled
    slurm.says("", ended + accounted("COMPLETED", job="8", submission="abcd9999"))
    assert next(seen).is_settled
    assert SUBMISSION != "abcd9999"


@pytest.mark.slow  # a comparison on the cluster and its twin, and the time that SLURM takes to miss a node
def test_a_run_whose_node_died_and_that_slurm_does_not_start_again_is_there_in_the_morning(
    cluster, tmp_path, tiny_model, problem_files
):
    for way in ("slurm", "inline"):
        (tmp_path / way).mkdir()
        write(tmp_path / way, tiny_model, problem_files, arms={"lora": METHODS["lora"]}, train=LONG, launch=launch())
    there, here = tmp_path / "slurm", tmp_path / "inline"
    assert start(cluster, there, "small.yaml").code == 0
    job = events(there, "submitted")[0]["job"]
    assert cluster.run("scontrol", "update", f"jobid={job}", "Requeue=0").code == 0  # as where the cluster forbids it
    cluster.wait_for(lambda: trained_steps(there, "lora") > 5, "some steps", 240)
    node = events(there, "started")[0]["nodes"]
    cluster.node_off(int(node[-1]))
    try:
        followed = start(cluster, there, "small.yaml", "--wait")
    finally:
        cluster.node_on(int(node[-1]))
    assert followed.code == 0, followed.out + followed.err
    told = events(there, "submitting")
    assert [event["stage"] for event in told] == ["run", "report", "run", "report"]
    assert told[2]["resources"]["exclude"] == node
    assert not events(there, "requeued")
    assert "submitted again" in "".join(path.read_text() for path in there.glob("runs/small/jobs/*_log.out"))
    assert run_cli("compare", "small.yaml", "--launcher", "inline", cwd=here).code == 0
    assert weights(there, "lora") == weights(here, "lora")
    assert scores(there) == scores(here)
