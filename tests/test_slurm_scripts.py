"""The hand-run sbatch scripts, submitted to a real cluster of two nodes as a user would submit them."""

from __future__ import annotations

import json
import time
from pathlib import Path

from comparison_cases import METHODS, run_folder, write
from conftest import REPOSITORY, run_cli
from pruning_cases import shards_of
from ranks_cases import Ranks
from slurm_cluster import Cluster
from test_ranks_trajectories import assert_same_trajectory

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
    arms = {"base": METHODS["base"], "lora": METHODS["lora"] | {"grid": {"train.learning_rate": [0.005, 0.002]}}}
    for name in ("alone", "ours"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, tiny_model, problem_files, arms=arms)
    prepared = run_cli("compare", "small.yaml", "--prepare", cwd=tmp_path / "ours")
    assert prepared.code == 0, prepared.err
    runs = sorted((tmp_path / "ours" / "runs" / "small").glob("*/config.yaml"))
    assert [str(path.parent.relative_to(tmp_path / "ours")) for path in runs] == sorted(prepared.out.split())
    folder = tmp_path / "ours" / "runs" / "small"
    job = submit(cluster, "sweep.sbatch", tmp_path, folder, options=["--array=1-3%2"])
    assert cluster.wait_for_state(job, timeout=240) == "COMPLETED", said(tmp_path)
    assert run_cli("compare", "small.yaml", cwd=tmp_path / "alone").code == 0
    ended = time.time()
    report = run_cli("compare", "small.yaml", cwd=tmp_path / "ours")
    assert report.code == 0
    for path in runs:
        ours, theirs = (tmp_path / name / "runs" / "small" / path.parent.name for name in ("ours", "alone"))
        assert (ours / "record.json").stat().st_mtime < ended, "the comparison found it done"
        numbers = [
            json.loads((way / "record.json").read_text())["evaluate"]["test"]["nll_sum"] for way in (ours, theirs)
        ]
        assert numbers[0] == numbers[1]
