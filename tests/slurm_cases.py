"""Experiments for a real cluster, what starts them, and what they leave."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from comparison_cases import METHODS, write
from conftest import Done, run_cli

from lora_dist.store.lines import read_lines

TRAIN = {"max_steps": 10, "learning_rate": 0.002, "checkpoint_steps": 4}
PRUNE = {"kind": "sparsegpt", "sparsity": 0.5, "calibration": {"samples": 4, "length": 32}}
ARMS = {
    "base": METHODS["base"],
    "sweep": {"method": {"kind": "lora", "rank": 4}, "grid": {"train.learning_rate": [0.001, 0.002, 0.004]}},
    "full": METHODS["full"],
    "pruned": {**METHODS["base"], "prune": PRUNE},
}
TWO_NODES = {"full": {"nodes": 2, "config": "cpu_zero2"}, "prune": {"nodes": 2}}
# One step takes 100 ms or so: longer than the 30 s between two looks of the cluster at its jobs' time limits.
LONG = {"max_steps": 450, "checkpoint_steps": 1000, "learning_rate": 0.002}


def launch(**slurm) -> dict:
    return {"launcher": "slurm", "slurm": {"time": 10, **slurm}}


def start(cluster, folder: Path, *words: str, verb="compare", env=None) -> Done:
    return run_cli(verb, *words, cwd=folder, env={**cluster.env, **(env or {})})


def events(folder: Path, *kinds: str) -> list[dict]:
    return [line for line in read_lines(folder / "runs" / "small" / "ledger.jsonl") if line["event"] in kinds]


def all_ended(cluster, timeout=240) -> None:
    cluster.wait_for(lambda: not cluster.run("squeue", "--noheader").out.strip(), "the end of all jobs", timeout)


def trained_steps(folder: Path, arm: str) -> int:
    found = list(folder.glob(f"runs/small/{arm}-*/metrics.jsonl"))
    return len(found[0].read_text().splitlines()) if found else 0


def scores(folder: Path) -> dict[str, float]:
    """The summed test nll of every run, by its folder; one full run goes by its arm."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/small/*/record.json")}
    return {
        "full" if name.startswith("full-") else name: told["evaluate"]["test"]["nll_sum"]
        for name, told in found.items()
    }


def pruned_bytes(folder: Path) -> dict[str, str]:
    files = folder.glob("runs/small/pruned/*/**/*.safetensors")
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in files}


def write_long(folder: Path, model, files, **slurm) -> None:
    arms = {"full": METHODS["full"]}
    settings = {"signal_seconds": 20, "partition": "low", "jobs": TWO_NODES, **slurm}
    write(folder, model, files, arms=arms, train=LONG, launch=launch(**settings))
