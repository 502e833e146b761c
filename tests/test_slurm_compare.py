"""A comparison on a real cluster of two nodes: the table of one machine, whatever happens to its jobs meanwhile."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from comparison_cases import METHODS, record, run_folder, weights, write
from conftest import run_cli
from slurm_cases import (
    ARMS,
    LONG,
    TRAIN,
    TWO_NODES,
    all_ended,
    events,
    launch,
    pruned_bytes,
    scores,
    start,
    trained_steps,
    write_long,
)
from slurm_cluster import running_cluster


def test_a_comparison_on_the_cluster_is_the_table_of_one_machine(cluster, tmp_path, tiny_model, problem_files):
    for way in ("slurm", "inline"):
        (tmp_path / way).mkdir()
        write(tmp_path / way, tiny_model, problem_files, arms=ARMS, train=TRAIN,
              launch=launch(array_cap=2, jobs=TWO_NODES))  # fmt: skip
    there, here = tmp_path / "slurm", tmp_path / "inline"
    done = start(cluster, there, "small.yaml")
    assert done.code == 0, done.err
    assert "6 jobs submitted" in done.out
    assert "lora-dist status" in done.out
    assert stat.S_IMODE((there / "runs" / "small" / "jobs").stat().st_mode) == 0o700
    again = start(cluster, there, "small.yaml")  # while they wait or run
    assert "0 jobs submitted" in again.out, again.out
    assert run_cli("compare", "small.yaml", "--launcher", "inline", cwd=here).code == 0
    all_ended(cluster)
    assert {**scores(there), "full": 0} == {**scores(here), "full": 0}
    ours, theirs = (record(folder, "full") for folder in (there, here))
    assert ours["evaluate"]["test"]["perplexity"] == pytest.approx(theirs["evaluate"]["test"]["perplexity"], rel=1e-4)
    assert (ours["train"]["zero_stage"], ours["train"]["world_size"]) == (2, 2)
    assert pruned_bytes(there) == pruned_bytes(here)
    assert (there / "runs" / "small" / "report" / "report.md").exists()
    assert {event["nodes"] for event in events(there, "started")} >= {"node[1-2]"}
    assert most_at_once(events(there, "started", "ended"), "sweep") <= 2


def most_at_once(said: list[dict], arm: str) -> int:
    running = most = 0
    for event in said:
        if event["run"].startswith(f"{arm}-"):
            running += 1 if event["event"] == "started" else -1
            most = max(most, running)
    return most


def preempted(cluster, _job: str) -> None:
    cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")


def out_of_time(cluster, job: str) -> None:
    cluster.run("bash", "-c", f"scontrol update jobid={job} EndTime=$(date -d '+22 seconds' +%Y-%m-%dT%H:%M:%S)")


def signalled(cluster, job: str) -> None:
    assert cluster.run("scancel", "--signal=USR2", job).code == 0


def power_cut(cluster, _job: str) -> None:
    cluster.node_off(2)
    cluster.node_on(2)


def worker_killed(cluster, _job: str) -> None:
    assert cluster.in_node(2, "pkill", "-KILL", "-f", "lora_dist work").code == 0


def controller_restarted(cluster, _job: str) -> None:
    cluster.controller_off()
    cluster.controller_on()


FAULTS = {
    "signal": (signalled, [["signal"]]),
    "preempted": (preempted, [["preempted"]]),
    "timeout": (out_of_time, [["timeout"]]),
    "power cut": (power_cut, [["rank_lost"], []]),  # unless the cluster is faster, and starts the job again by itself
    "worker killed": (worker_killed, [["rank_lost"]]),
    "controller restarted": (controller_restarted, [[]]),
}


@pytest.mark.slow  # a signal to a job on two nodes is among the tests of the scripts
@pytest.mark.parametrize("fault", FAULTS)
def test_a_disturbed_job_ends_with_the_bytes_of_an_undisturbed_one(
    cluster, calm, tmp_path, tiny_model, problem_files, fault
):
    disturb, causes = FAULTS[fault]
    write_long(tmp_path, tiny_model, problem_files)
    assert start(cluster, tmp_path, "small.yaml").code == 0
    job = events(tmp_path, "submitted")[0]["job"]
    cluster.wait_for(lambda: trained_steps(tmp_path, "full") > 5, "some steps")
    disturb(cluster, job)
    all_ended(cluster)
    assert weights(tmp_path, "full") == weights(calm, "full")
    assert scores(tmp_path) == scores(calm)
    assert [event["cause"] for event in events(tmp_path, "requeued")] in causes
    assert len(events(tmp_path, "resumed")) == (fault in ("signal", "preempted", "timeout")), "those had saved"
    assert trained_steps(tmp_path, "full") == LONG["max_steps"]


def sbatch_that(folder: Path, cluster, call: int, *, kills: str) -> dict[str, str]:
    """An sbatch before the real one on PATH, that kills its caller at the `call`-th time: before or after."""
    folder.mkdir()
    real = cluster.run("bash", "-c", "command -v sbatch").out.strip()
    script = folder / "sbatch"
    before, after = ("kill -9 $PPID; exit 1", "") if kills == "before" else ("", "kill -9 $PPID")
    script.write_text(
        f"#!/bin/bash\necho >> {folder}/calls\nn=$(wc -l < {folder}/calls)\n"
        f'[ $n != {call} ] || {{ {before or ":"}; }}\n{real} "$@"; code=$?\n[ $n != {call} ] || {{ {after or ":"}; }}\n'
        "exit $code\n"
    )
    script.chmod(0o755)
    return {"PATH": f"{folder}:{cluster.env['PATH']}"}


@pytest.mark.parametrize("kills", ["before", pytest.param("after", marks=pytest.mark.slow)])
def test_a_killed_submitter_finds_its_jobs_again_and_submits_nothing_twice(
    cluster, tmp_path, tiny_model, problem_files, kills
):
    arms = {name: ARMS[name] for name in ("base", "sweep")}
    write(tmp_path, tiny_model, problem_files, arms=arms, train=TRAIN, launch=launch())
    env = sbatch_that(tmp_path / "bin", cluster, 2, kills=kills)  # the array of the sweep
    assert start(cluster, tmp_path, "small.yaml", env=env).code == -9
    assert len(events(tmp_path, "submitting")) == 2
    assert len(events(tmp_path, "submitted")) == 1
    done = start(cluster, tmp_path, "small.yaml")
    assert done.code == 0, done.err
    all_ended(cluster)
    started = [event["run"] for event in events(tmp_path, "started")]
    assert sorted(started) == sorted(set(started)), "each once"
    assert len(started) == 4
    assert bool(events(tmp_path, "abandoned")) == (kills == "before")


def test_a_run_that_fails_leaves_the_others_and_can_be_tried_again(cluster, tmp_path, tiny_model, problem_files):
    arms = {"base": METHODS["base"], "full": METHODS["full"]}
    write(tmp_path, tiny_model, problem_files, arms=arms, train=TRAIN,
          launch=launch(setup=["[ ! -e broken ] || exit 7"]))  # fmt: skip
    assert start(cluster, tmp_path, "small.yaml").code == 0
    (tmp_path / "broken").touch()
    cluster.cancel_all()
    ended = start(cluster, tmp_path, "small.yaml", "--wait")
    assert ended.code == 3, ended.err
    (tmp_path / "broken").unlink()
    done = start(cluster, tmp_path, "runs/small", verb="retry")
    assert done.code == 0, done.err
    all_ended(cluster)
    assert run_folder(tmp_path, "full").joinpath("record.json").exists()
    none = start(cluster, tmp_path, "runs/small", verb="cancel")
    assert none.code == 2
    assert "no job" in none.err


def test_cancel_ends_what_waits_and_runs(cluster, tmp_path, tiny_model, problem_files):
    write_long(tmp_path, tiny_model, problem_files)
    assert start(cluster, tmp_path, "small.yaml").code == 0
    done = start(cluster, tmp_path, "runs/small", verb="cancel")
    assert done.code == 0, done.err
    all_ended(cluster)
    assert len(events(tmp_path, "cancelled")) == 2
    assert not list(tmp_path.glob("runs/small/*/record.json"))


BAD = {
    "partition": (["launch.slurm.partition=elsewhere"], "launch.slurm.partition"),
    "time": (["launch.slurm={partition: short, time: 60}"], "launch.slurm.time"),
    "GPUs": (["launch.slurm.gpus_per_node=1"], "launch.slurm.gpus_per_node"),
    "nodes": (["launch.slurm.nodes=3"], "launch.slurm.nodes"),
    "a batch that ranks do not divide": (
        ["train.global_batch_size=7", "launch.slurm.nodes=2"],
        "train.global_batch_size",
    ),
    "a profile that is not there": (["launch.slurm.profile=nowhere.yaml"], "nowhere.yaml"),
    "what sbatch refuses": (["launch.slurm={extra: {licenses: none}}"], "launch.slurm"),
}


@pytest.fixture(scope="module")
def strict():
    with running_cluster(accounting=False, extra=["PartitionName=short Nodes=ALL MaxTime=30 State=UP"]) as running:
        yield running


@pytest.mark.parametrize("case", BAD)
def test_what_the_cluster_cannot_give_is_said_before_anything_is_submitted(
    strict, tmp_path, tiny_model, problem_files, case
):
    overrides, key = BAD[case]
    write(tmp_path, tiny_model, problem_files, arms={"full": METHODS["full"]}, train=TRAIN, launch=launch())
    done = start(strict, tmp_path, "small.yaml", *overrides)
    assert done.code == 2, done.out + done.err
    assert any(key in line for line in done.error_lines), done.err
    assert "Traceback" not in done.err
    assert not events(tmp_path, "submitted")
    assert not strict.run("squeue", "--noheader").out.strip()


def test_where_the_cluster_refuses_one_job_none_is_left(strict, tmp_path, tiny_model, problem_files):
    write(tmp_path, tiny_model, problem_files, arms={"base": METHODS["base"], "full": METHODS["full"]}, train=TRAIN,
          launch=launch(jobs={"full": {"constraint": "nowhere"}}))  # fmt: skip
    done = start(strict, tmp_path, "small.yaml")
    assert done.code == 2, done.out + done.err
    assert "launch.slurm" in done.error_lines[0]
    all_ended(strict)
    assert not list(tmp_path.glob("runs/small/*/record.json"))
    assert len(events(tmp_path, "cancelled")) == len(events(tmp_path, "abandoned")) == 1


def test_a_dry_run_shows_the_jobs_and_writes_nothing(strict, tmp_path, tiny_model, problem_files):
    write(tmp_path, tiny_model, problem_files, arms=ARMS, launch=launch(array_cap=2, jobs=TWO_NODES))
    done = start(strict, tmp_path, "small.yaml", "--dry-run")
    assert done.code == 0, done.err
    assert "#SBATCH --array=0-2%2" in done.out
    assert "#SBATCH --nodes=2" in done.out
    assert "6 jobs. Nothing was submitted." in done.out
    assert "keeps no accounts" in done.out
    assert "preempted has 3 s to save: see" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_without_a_cluster_the_launcher_is_refused(tmp_path, tiny_model, problem_files):
    write(tmp_path, tiny_model, problem_files, arms={"base": METHODS["base"]}, launch=launch())
    done = run_cli("compare", "small.yaml", cwd=tmp_path, env={"PATH": "/nonexistent"})
    assert done.code == 2
    assert done.error_lines
    assert "sbatch" in done.error_lines[0]
    assert not (tmp_path / "runs").exists()
