"""Jobs of a real cluster that do a part of a run: preparing, pruning, training, measuring; and what a machine lacks."""

from __future__ import annotations

import json

import pytest
from comparison_cases import METHODS, record, run_folder, write
from conftest import run_cli
from slurm_cases import ARMS, PRUNE, TRAIN, TWO_NODES, all_ended, events, launch, pruned_bytes, scores, start
from slurm_cluster import running_cluster

MEASURED_APART = {**TWO_NODES, "evaluate": {"nodes": 1}}


@pytest.mark.slow  # a comparison on one machine, and its stages in six jobs
def test_stages_in_jobs_of_their_own_end_in_the_table_of_one_machine(cluster, tmp_path, tiny_model, problem_files):
    arms = {name: ARMS[name] for name in ("sweep", "full", "pruned")}
    for way in ("slurm", "inline"):
        (tmp_path / way).mkdir()
        write(tmp_path / way, tiny_model, problem_files, arms=arms, train=TRAIN,
              launch=launch(prepare="job", jobs=MEASURED_APART))  # fmt: skip
    there, here = tmp_path / "slurm", tmp_path / "inline"
    done = start(cluster, there, "small.yaml")
    assert done.code == 0, done.err
    assert not (there / "runs" / "small" / "tokens").exists(), "that is for the job"
    stages = {event["stage"]: event for event in events(there, "submitting")}
    assert list(stages) == ["prepare", "prune", "run", "train", "evaluate", "report"]
    assert run_cli("compare", "small.yaml", "--launcher", "inline", cwd=here).code == 0
    all_ended(cluster)
    assert {**scores(there), "full": 0} == {**scores(here), "full": 0}
    full = run_folder(there, "full")
    ours, theirs = (record(folder, "full") for folder in (there, here))
    assert ours["evaluate"]["test"]["perplexity"] == pytest.approx(theirs["evaluate"]["test"]["perplexity"], rel=1e-4)
    assert (ours["train"]["world_size"], ours["attempts"]) == (2, 2)
    trained, measured = [event for event in events(there, "started") if event["run"] == full.name]
    assert (trained["nodes"], trained["ranks"]) == ("node[1-2]", 2)
    assert (len(measured["nodes"]), measured["ranks"]) == (len("node1"), 1)
    ends = [event["seconds"] for event in events(there, "ended") if event["run"] == full.name]
    assert ours["device_seconds"] == pytest.approx(2 * ends[0] + ends[1], rel=0.2), "two ranks, then one"
    assert pruned_bytes(there) == pruned_bytes(here)


@pytest.mark.slow  # two trainings on two nodes
def test_what_has_trained_is_measured_whatever_became_of_the_other_elements(
    cluster, tmp_path, tiny_model, problem_files
):
    arms = {"full": {**METHODS["full"], "grid": {"train.learning_rate": [1e30, 0.002]}}}  # the first one's loss is lost
    write(tmp_path, tiny_model, problem_files, arms=arms, train={"max_steps": 10},
          launch=launch(array_cap=1, jobs=MEASURED_APART))  # fmt: skip
    assert start(cluster, tmp_path, "small.yaml").code == 0
    all_ended(cluster)
    done = start(cluster, tmp_path, "runs/small", "--json", verb="status")
    assert done.code == 3, done.err
    bad, good = json.loads(done.out)
    assert (bad["state"], good["state"]) == ("failed", "completed")
    assert "loss" in bad["reason"]
    assert bad["stage"] == "train"
    told = start(cluster, tmp_path, "runs/small", verb="status").out
    assert "report: COMPLETED" in told


@pytest.mark.slow  # ZeRO-3 on two nodes, and its twin on one machine
def test_what_zero3_has_trained_on_two_nodes_is_measured_by_one_rank(cluster, tmp_path, tiny_model, problem_files):
    for way in ("slurm", "inline"):
        (tmp_path / way).mkdir()
        write(tmp_path / way, tiny_model, problem_files, arms={"full": METHODS["full"]}, train=TRAIN,
              launch=launch(jobs={"full": {"nodes": 2, "config": "cpu_zero3"}}))  # fmt: skip
    there, here = tmp_path / "slurm", tmp_path / "inline"
    assert start(cluster, there, "small.yaml").code == 0
    assert [event["stage"] for event in events(there, "submitting")] == ["train", "evaluate", "report"]
    assert run_cli("compare", "small.yaml", "--launcher", "inline", cwd=here).code == 0
    all_ended(cluster)
    ours, theirs = (record(folder, "full") for folder in (there, here))
    assert (ours["train"]["zero_stage"], ours["train"]["world_size"]) == (3, 2)
    assert [event["ranks"] for event in events(there, "started")] == [2, 1]
    assert ours["evaluate"]["test"]["perplexity"] == pytest.approx(theirs["evaluate"]["test"]["perplexity"], rel=1e-4)


def test_a_mistake_that_the_preparation_finds_is_every_runs_outcome_and_nothing_starts(
    cluster, tmp_path, tiny_model, problem_files
):
    arms = {"base": METHODS["base"], "pruned": ARMS["pruned"]}
    write(tmp_path, tiny_model, problem_files, arms=arms, launch=launch(prepare="job"))
    assert start(cluster, tmp_path, "small.yaml", "data.columns={prompt: riddle, completion: answer}").code == 0
    all_ended(cluster)
    done = start(cluster, tmp_path, "runs/small", "--json", verb="status")
    assert done.code == 3, done.err
    rows = json.loads(done.out)
    assert [row["state"] for row in rows] == ["refused", "refused"]
    assert all("riddle" in row["reason"] for row in rows)
    assert [event["run"] for event in events(tmp_path, "ended")] == [row["run"] for row in rows], "no run has begun"


@pytest.mark.slow  # two more submissions of what a comparison does
def test_one_run_or_one_pruning_is_a_job_by_its_own_verb(cluster, tmp_path, tiny_model, problem_files):
    arms = {"base": METHODS["base"], "full": METHODS["full"], "pruned": {**METHODS["base"], "prune": PRUNE}}
    write(tmp_path, tiny_model, problem_files, arms=arms, train=TRAIN, launch=launch(jobs=TWO_NODES))
    words = ("small.yaml", "--launcher", "slurm")
    pruned = start(cluster, tmp_path, *words, "--wait", verb="prune")
    assert pruned.code == 0, pruned.out + pruned.err
    assert [event["stage"] for event in events(tmp_path, "submitting")] == ["prune"]
    assert pruned_bytes(tmp_path)
    again = start(cluster, tmp_path, *words, verb="prune")
    assert "0 jobs submitted" in again.out, again.out + again.err
    trained = start(cluster, tmp_path, *words, "--arm", "full", "--wait", verb="train")
    assert trained.code == 0, trained.out + trained.err
    assert record(tmp_path, "full")["train"]["world_size"] == 2
    assert not list(tmp_path.glob("runs/small/base-*/record.json"))
    several = start(cluster, tmp_path, *words, verb="train")
    assert several.code == 2
    assert "--arm" in several.err
    elsewhere = start(cluster, tmp_path, "small.yaml", "--launcher", "local", "--arm", "full", verb="train")
    assert elsewhere.code == 2
    assert "--launcher" in elsewhere.error_lines[0]


def test_a_machine_without_the_gpus_of_its_job_is_named(tmp_path, tiny_model, problem_files):
    """The test cluster's GPUs are names without anything behind them: as with a driver that has gone."""
    write(tmp_path, tiny_model, problem_files, arms={"base": METHODS["base"]},
          launch=launch(gpus_per_node=2, gpu_type="a100", resubmissions=0))  # fmt: skip
    with running_cluster(gpus=2, gpu_type="a100") as cluster:
        assert start(cluster, tmp_path, "small.yaml").code == 0
        all_ended(cluster)
        done = start(cluster, tmp_path, "runs/small", "--json", verb="status")
        again = start(cluster, tmp_path, "small.yaml", "--dry-run")
    assert "run base: kept off node1, which failed under it" in again.out, again.out + again.err
    assert done.code == 3, done.err
    (row,) = json.loads(done.out)
    assert (row["state"], row["cluster"]["action"]) == ("failed", "retry_elsewhere")
    assert row["reason"].startswith("node1: torch sees 0 of the 2 GPUs"), row["reason"]
    outcome = json.loads((run_folder(tmp_path, "base") / "outcome.json").read_text())
    assert (outcome["host"], outcome["cause"]) == ("node1", "node_unfit")
