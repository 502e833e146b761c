"""The hand-run sbatch scripts, submitted to a real cluster of two nodes as a user would submit them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from comparison_cases import METHODS, record, run_folder, write
from conftest import REPOSITORY, run_cli
from pruning_cases import shards_of
from ranks_cases import Ranks
from slurm_cluster import Cluster
from test_ranks_trajectories import assert_same_trajectory

from lora_dist.config.profile import with_profile
from lora_dist.config.slurm import SlurmSection

SLURM = REPOSITORY / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sbatch"))


def submit(cluster: Cluster, script: str, folder: Path, *words: object, options=(), env=None) -> int:
    return cluster.submit(
        "--time=10", f"--output={folder}/job-%A-%a.log", *options, SLURM / script, *words, cwd=REPOSITORY, env=env
    )  # fmt: skip


def said(folder: Path) -> str:
    return "".join(path.read_text()[-4000:] for path in sorted(folder.glob("job-*.log")))


def test_training_on_two_nodes_that_is_stopped_goes_on_and_trains_what_one_process_does(
    tmp_path, tiny_model, problem_files, cluster
):
    alone = Ranks.make(tmp_path / "alone", tiny_model, problem_files)
    alone.train("plain", "full")
    ours = Ranks.make(tmp_path / "ours", tiny_model, problem_files)
    job = submit(
        cluster, "train.sbatch", tmp_path, ours.experiment, "--arm", "full",
        env={"CONFIG": "launch/cpu_zero2.yaml", "RANKS": "1"},
    )  # fmt: skip
    cluster.wait_for(lambda: len(ours.lines("full")) >= 8, "the 8th step", timeout=180)
    cluster.run("scancel", "--batch", "--signal=USR2", job)  # as SLURM does before a time limit
    assert cluster.wait_for_state(job, timeout=240) == "COMPLETED", said(tmp_path)
    assert "Restarts=1" in cluster.run("scontrol", "show", "job", job).out
    part = json.loads((ours.run_folder("full") / "record.json").read_text())["train"]
    assert (part["world_size"], part["zero_stage"]) == (2, 2)
    assert 8 <= part["resumed_from_steps"][0] < 26
    assert_same_trajectory(ours.lines("full"), alone.lines("full"))


PRUNING = {
    "arms": {"pruned": {"method": {"kind": "base"}}},
    "prune": {"sparsity": 0.5, "calibration": {"samples": 8, "length": 128}},
}


def test_pruning_on_two_nodes_writes_the_bytes_of_one_process(tmp_path, tiny_model, problem_files, cluster):
    folders = {name: tmp_path / name for name in ("alone", "ours")}
    for folder in folders.values():
        folder.mkdir()
        write(folder, tiny_model, problem_files, output_dir=str(folder / "runs"), **PRUNING)
    assert run_cli("prune", "small.yaml", cwd=folders["alone"]).code == 0
    job = submit(cluster, "prune.sbatch", tmp_path, folders["ours"] / "small.yaml", "--arm", "pruned")
    assert cluster.wait_for_state(job) == "COMPLETED", said(tmp_path)
    theirs, ours = (run_folder(folder, "pruned") / "pruned" for folder in folders.values())
    assert json.loads((ours / "pruning.json").read_text())["world_size"] == 2
    assert len(shards_of(ours)) == 2 + 1 + 2  # two blocks, the rest, two masks
    assert shards_of(ours) == shards_of(theirs)


def test_a_sweep_is_an_array_whose_elements_do_the_runs_of_a_comparison(tmp_path, tiny_model, problem_files, cluster):
    arms = {arm: METHODS[arm] for arm in ("base", "lora")}
    for name in ("alone", "ours"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, tiny_model, problem_files, arms=arms)
    prepared = run_cli("compare", "small.yaml", "--prepare", cwd=tmp_path / "ours")
    assert prepared.code == 0, prepared.err
    folder = tmp_path / "ours" / "runs" / "small"
    runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
    assert [str(run.relative_to(tmp_path / "ours")) for run in runs] == sorted(prepared.out.split())
    assert not list(folder.glob("*/outcome.json")), "none has been started"
    job = submit(cluster, "sweep.sbatch", tmp_path, folder, options=["--array=1-2%1"])
    assert cluster.wait_for_state(job, timeout=240) == "COMPLETED", said(tmp_path)
    assert all((run / "record.json").is_file() for run in runs)
    assert run_cli("compare", "small.yaml", cwd=tmp_path / "alone").code == 0
    for arm in arms:
        ours, theirs = (record(tmp_path / name, arm)["evaluate"] for name in ("ours", "alone"))
        assert ours["test"]["nll_sum"] == theirs["test"]["nll_sum"]
    job = submit(cluster, "sweep.sbatch", tmp_path, folder, options=["--array=3"])
    assert cluster.wait_for_state(job) == "FAILED"
    assert "unbound variable" in said(tmp_path), "there is no third run"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["prune.sbatch", "sweep.sbatch"])
def test_a_job_that_is_told_to_stop_comes_back_and_ends_its_work(tmp_path, tiny_model, problem_files, cluster, script):
    write(tmp_path, tiny_model, problem_files, output_dir=str(tmp_path / "runs"), **PRUNING)
    words, options = [tmp_path / "small.yaml", "--arm", "pruned"], []
    if script == "sweep.sbatch":
        assert run_cli("compare", "small.yaml", "--prepare", cwd=tmp_path).code == 0
        words, options = [tmp_path / "runs" / "small"], ["--array=1"]
    job = submit(cluster, script, tmp_path, *words, options=options)
    cluster.wait_for(lambda: re.search(r"\.0 ", cluster.run("squeue", "-hs", f"-j{job}").out), "the job's step")
    cluster.run("scancel", "--batch", "--signal=USR2", job)
    assert cluster.wait_for_state(job, timeout=240) == "COMPLETED", said(tmp_path)
    assert "Restarts=1" in cluster.run("scontrol", "show", "job", job).out
    assert (run_folder(tmp_path, "pruned") / "pruned" / "pruning.json").is_file()


def test_all_scripts_give_a_job_back_in_the_same_words():
    texts = [path.read_text() for path in SCRIPTS]
    assert len(texts) == 3
    assert len({text.partition("\nstep=$!")[2] for text in texts}) == 1
    assert len({tuple(text.partition("set -u\n")[2].splitlines()[:2]) for text in texts}) == 1, "the trap, first of all"
    assert all("#SBATCH --signal=B:USR2@120\n#SBATCH --requeue\n#SBATCH --open-mode=append\n" in text for text in texts)


def test_the_example_of_a_profile_is_read_and_everything_in_its_comments_too(tmp_path):
    text = (SLURM / "cluster.example.yaml").read_text()
    shared = with_profile(SlurmSection(profile=str(SLURM / "cluster.example.yaml"), account="ours"))
    assert (shared.account, shared.partition, shared.job("full").nodes) == ("ours", "gpu", 2)
    assert shared.job("lora").gpus_per_node == 1
    in_full = tmp_path / "in-full.yaml"
    in_full.write_text(re.sub(r"^# (?=\w+: )", "", text, flags=re.MULTILINE))
    named = set(yaml.safe_load(in_full.read_text()))
    assert with_profile(SlurmSection(profile=str(in_full))).qos == "normal"
    assert set(SlurmSection.model_fields) - named == {"profile", "nodes", "config"}, "these belong to an experiment"
