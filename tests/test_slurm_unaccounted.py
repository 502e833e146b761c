"""A whole comparison on a real cluster that keeps no accounts: how jobs ended is known from their workers alone."""

from __future__ import annotations

import json

import pytest
from comparison_cases import write
from conftest import run_cli
from slurm_cases import ARMS, TRAIN, all_ended, events, launch, scores, start, trained_steps
from slurm_cluster import running_cluster

SLOWER = {**TRAIN, "max_steps": 60}
BROKEN = {"method": {"kind": "lora", "rank": 4}, "train": {"learning_rate": 1e30}}  # its loss becomes no number
PRUNED_ON_TWO = {"prune": {"nodes": 2}}


@pytest.mark.slow  # a comparison of seven runs, disturbed, and its twin on one machine
def test_a_comparison_without_accounting_is_the_table_of_one_machine_and_names_what_failed(
    tmp_path, tiny_model, problem_files
):
    arms = {**ARMS, "broken": BROKEN}
    for way in ("slurm", "inline"):
        (tmp_path / way).mkdir()
        write(tmp_path / way, tiny_model, problem_files, arms=arms, train=SLOWER, launch=launch(jobs=PRUNED_ON_TWO))
    there, here = tmp_path / "slurm", tmp_path / "inline"
    assert run_cli("compare", "small.yaml", "--launcher", "inline", cwd=here).code == 3
    with running_cluster(accounting=False) as cluster:
        done = start(cluster, there, "small.yaml")
        assert done.code == 0, done.err
        jobs = {event["submission"]: event["job"] for event in events(there, "submitted")}
        full = next(event for event in events(there, "submitting") if event["runs"][0].startswith("full-"))
        cluster.wait_for(lambda: trained_steps(there, "full") > 5, "some steps")
        cluster.run("scancel", "--signal=USR2", jobs[full["submission"]])
        running = json.loads(start(cluster, there, "runs/small", "--json", verb="status").out)
        assert {row["state"] for row in running} <= {"completed", "running", "pending", "failed"}, running
        all_ended(cluster)
        ended = start(cluster, there, "runs/small", verb="status")
        assert ended.code == 3, ended.out + ended.err
        assert "keeps no accounts" in ended.out
        rows = {row["run"]: row for row in json.loads(start(cluster, there, "runs/small", "--json", verb="status").out)}
        again = start(cluster, there, "small.yaml")
        assert "2 jobs submitted" in again.out, again.out  # the broken one once more, and the report
        all_ended(cluster)
    assert scores(there) == scores(here)
    assert [event["cause"] for event in events(there, "requeued")] == ["signal"]
    states = {name.rpartition("-")[0]: row["state"] for name, row in rows.items()}
    assert states == {**dict.fromkeys(arms, "completed"), "broken": "failed"}
    assert "loss" in next(row["reason"] for name, row in rows.items() if name.startswith("broken"))
