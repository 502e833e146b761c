"""Real launches on two CPU ranks: DDP over gloo and DeepSpeed's ZeRO, as a user would type them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from conftest import REPOSITORY, experiment_document

METHODS = {
    "lora": {"method": {"kind": "lora", "rank": 4}},
    "full": {"method": {"kind": "full"}, "train": {"learning_rate": 0.002}},
    "base": {"method": {"kind": "base"}},
    "qlora": {"method": {"kind": "qlora", "rank": 4}},
    "partial": {"method": {"kind": "partial", "top_blocks": 1}, "train": {"learning_rate": 0.002}},
    "prefix": {"method": {"kind": "prefix", "virtual_tokens": 6}, "train": {"learning_rate": 0.1}},
    "ia3": {"method": {"kind": "ia3"}, "train": {"learning_rate": 0.1}},
    "sparse": {"method": {"kind": "lora", "rank": 4}, "prune": {"kind": "magnitude", "sparsity": 0.5}},
}
# 43 rows are five whole steps of 8 and one of 3: the ranks get unequal shares, and fillers.
TRAIN = {"max_steps": 26, "checkpoint_steps": 6, "global_batch_size": 8, "micro_batch_size": 2}
CONFIGS = {"ddp": "cpu_ddp", "zero2": "cpu_zero2", "zero3": "cpu_zero3"}
ROWS = 43
COMPILING_S = 600
"""DeepSpeed's first launch on a machine compiles its operations, which takes minutes beside other tests."""


@dataclass(frozen=True)
class Ranks:
    """An experiment in a folder of its own, to be launched on any number of ranks."""

    folder: Path
    experiment: Path

    @classmethod
    def make(cls, folder: Path, model: Path, files: dict[str, Path], **sections) -> Ranks:
        folder.mkdir(parents=True, exist_ok=True)
        rows = folder / "rows.jsonl"
        rows.write_text("".join(files["train"].read_text().splitlines(keepends=True)[:ROWS]))
        files = {"train": rows, "test": files["test"]}
        document = experiment_document(model, files, **{"arms": METHODS, "train": TRAIN, **sections})
        document |= {"output_dir": str(folder / "runs")}
        experiment = folder / "small.yaml"
        experiment.write_text(yaml.safe_dump(document, sort_keys=False))
        return cls(folder, experiment)

    def command(self, strategy: str, arm: str, *words: str) -> list[str]:
        """The command of a user whose current folder is the checkout."""
        train = ["-m", "lora_dist", "train", str(self.experiment), "--arm", arm, *words]
        if strategy == "plain":
            return [sys.executable, *train]
        accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
        return [*accelerate, "--config_file", str(self.config(strategy)), *train]

    def config(self, strategy: str) -> Path:
        """A shipped config; ZeRO-1, which ships for GPUs only, with the line that puts it on the CPU."""
        if strategy in CONFIGS:
            return REPOSITORY / "launch" / f"{CONFIGS[strategy]}.yaml"
        path = self.folder / f"{strategy}.yaml"
        path.write_text((REPOSITORY / "launch" / f"{strategy}.yaml").read_text() + "use_cpu: true\n")
        return path

    def start(self, strategy: str, arm: str, *words: str) -> subprocess.Popen:
        with (self.folder / "said.log").open("a") as log:
            return subprocess.Popen(
                self.command(strategy, arm, *words), cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT
            )

    def train(self, strategy: str, arm: str, *words: str) -> Path:
        """Train to the record; returns the run's folder."""
        process = self.start(strategy, arm, *words)
        assert process.wait(timeout=COMPILING_S) == 0, self.said[-4000:]
        return self.run_folder(arm)

    @property
    def said(self) -> str:
        return (self.folder / "said.log").read_text()

    def run_folder(self, arm: str) -> Path:
        (found,) = self.folder.glob(f"runs/small/{arm}-*")
        return found

    def lines(self, arm: str) -> list[dict]:
        found = list(self.folder.glob(f"runs/small/{arm}-*/metrics.jsonl"))
        return [json.loads(line) for line in found[0].read_text().splitlines() if line.endswith("}")] if found else []

    def wait_for_step(self, arm: str, step: int, process: subprocess.Popen) -> None:
        while len(self.lines(arm)) < step:
            assert process.poll() is None, self.said[-4000:]
            time.sleep(0.005)


def record(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def outcome(folder: Path) -> dict:
    return json.loads((folder / "outcome.json").read_text())


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "model").glob("*.safetensors")}


def lasting(lines: list[dict]) -> list[dict]:
    """What of the metrics does not depend on when they were taken."""
    return [{key: value for key, value in line.items() if key not in ("seconds", "warm_up")} for line in lines]


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(stat.parent.name)
            found += [child, *descendants(child)]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ranks_of(process: subprocess.Popen) -> list[int]:
    """The ranks of a launch by their number; a plain run is its own."""
    ranks = {}
    for pid in descendants(process.pid):
        try:
            variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        except OSError:
            continue
        number = next((int(word[5:]) for word in variables if word.startswith("RANK=")), None)
        if number is not None:
            ranks.setdefault(number, pid)
    return [ranks[number] for number in sorted(ranks)] or [process.pid]


def end_of(process: subprocess.Popen, family: list[int], limit: float = 30.0) -> float:
    """Seconds until the job and every one of its processes is gone."""
    started = time.monotonic()
    process.wait(timeout=limit)
    while any(is_alive(pid) for pid in family):
        assert time.monotonic() - started < limit, f"still there: {[pid for pid in family if is_alive(pid)]}"
        time.sleep(0.02)
    return time.monotonic() - started


def send(pid: int, what: signal.Signals) -> None:
    os.kill(pid, what)
