"""Experiment folders made with the real store and numpy-made scores; the other reporting tests fill and read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.evaluation.scores import read_scores, write_scores
from lora_dist.evaluation.statistics import perplexity_interval
from lora_dist.store.atomic import make_folder, write_text
from lora_dist.store.folders import ExperimentFolder, RunFolder, dump_yaml
from lora_dist.store.ledger import ENDED, STARTED, write_event
from lora_dist.store.record import Record

ROWS, RESAMPLES = 60, 200
ENVIRONMENT = {
    "packages": {"lora_dist": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
    "python": "3.11.7",
    "platform": "Linux-6.1",
    "host": "node-1",
    "cpu": "A Fast CPU",
    "cores": 2,
    "memory_bytes": 8 << 30,
    "git": {"commit": "abc123", "dirty": False},
}
TRAINABLE = {"base": 0, "lora": 90_000, "qlora": 90_000, "partial": 600_000, "full": 1_765_000}
SAMPLES = [
    {"row": 0, "prompt": "Question: 2 + 3?\nAnswer:", "reference": " 5", "prediction": " 5", "new_tokens": 2},
    {"row": 4, "prompt": "Question: 7 + 6?\nAnswer:", "reference": " 13", "prediction": " 12", "new_tokens": 3},
]
ARMS: dict[str, Any] = {
    "base": {"method": {"kind": "base"}},
    "lora": {"points": [{"method.rank": 4, "method.alpha": 8}, {"method.rank": 16, "method.alpha": 32}]},
    "qlora": {"method": {"kind": "qlora"}},
    "full": {"method": {"kind": "full"}},
}


class Synthetic:
    """One experiment folder whose runs are finished, failed or left alone, as a test needs them."""

    def __init__(self, path: Path, arms: dict[str, Any] = ARMS, **settings: Any) -> None:
        self.folder = ExperimentFolder(make_folder(path))
        document = {
            "name": path.name,
            "output_dir": str(path.parent),
            "model": {"path": "builtin:tiny-llama"},
            "data": {"task": "instruction", "path": "builtin:word-problems"},
            "evaluate": {"bootstrap_samples": RESAMPLES},
            "arms": arms,
        }
        self.experiment = Experiment.model_validate(document | settings)
        write_text(self.folder.experiment, dump_yaml(self.experiment.model_dump(mode="json")))
        self.runs = expand(self.experiment)

    def of(self, arm: str, index: int = 0) -> Run:
        return [run for run in self.runs if run.arm == arm][index]

    def finish(
        self,
        run: Run,
        nats: float,
        *,
        token_hash: str = "a" * 64,
        spread: float = 0.05,
        samples: list[dict[str, Any]] = SAMPLES,
        steps: int = 40,
        rows: int = ROWS,
        validation: float | None = None,
        environment: dict[str, Any] = ENVIRONMENT,
        early_stopping: dict[str, Any] | None = None,
    ) -> RunFolder:
        """Give a run scores of about `nats` per token, and everything else that a finished run has."""
        folder = self.begin(run)
        means = {"train": nats - 0.1, "test": nats} | ({"validation": validation} if validation else {})
        evaluate = {split: write_split(folder, split, mean, spread, rows) for split, mean in means.items()}
        for step in range(steps if run.trains else 0):
            line = {"step": step + 1, "epoch": step / steps, "loss": 3 * np.exp(-step / 10) + nats, "tokens": 512}
            rest = {"learning_rate": 1e-4, "gradient_norm": 1.0, "seconds": 0.25, "scored_tokens": 200}
            if early_stopping and (step + 1) % 10 == 0:
                rest["validation_loss"] = early_stopping["best_loss"]
            with folder.metrics.open("a") as file:
                file.write(json.dumps(line | rest) + "\n")
        write_text(folder.predictions, "".join(json.dumps(sample) + "\n" for sample in samples))
        record_of(run, token_hash, evaluate, environment, early_stopping).write(folder.record)
        folder.write_outcome("completed")
        write_event(self.folder.ledger, run.id, ENDED, seconds=12.5)
        return folder

    def begin(self, run: Run) -> RunFolder:
        """Start a run and leave it there."""
        folder = self.folder.run(run.id)
        folder.create(run.model_dump(mode="json"))
        write_text(folder.log, "what the worker printed\n")
        write_event(self.folder.ledger, run.id, STARTED)
        return folder

    def end(self, run: Run, outcome: str, message: str) -> RunFolder:
        folder = self.begin(run)
        folder.write_outcome(outcome, message)
        write_event(self.folder.ledger, run.id, ENDED, seconds=3.0)
        return folder


def write_split(folder: RunFolder, split: str, nats: float, spread: float, rows: int) -> dict[str, Any]:
    """Scores around `nats` per token in which what rows share (their difficulty) is the same for every run."""
    shared = np.random.default_rng(7)
    tokens = shared.integers(5, 60, size=rows)
    difficulty = shared.normal(0, 0.4, size=rows)
    own = np.random.default_rng(sum(folder.id.encode())).normal(0, spread, size=rows)
    nll = np.maximum(nats + difficulty + own, 0.01) * tokens
    write_scores(folder.scores / f"{split}.parquet", nll, tokens)
    low, high = perplexity_interval(nll, tokens, resamples=RESAMPLES)
    return {
        "nll_sum": float(nll.sum()),
        "scored_tokens": int(tokens.sum()),
        "examples": rows,
        "perplexity": float(np.exp(nll.sum() / tokens.sum())),
        "bits_per_byte": float(nll.sum() / tokens.sum() / np.log(2) / 3.1),
        "seconds": 1.5,
        "ci95": {"perplexity": [low, high]},
    }


def record_of(
    run: Run,
    token_hash: str,
    evaluate: dict[str, Any],
    environment: dict[str, Any],
    early_stopping: dict[str, Any] | None = None,
) -> Record:
    scale = run.method.rank / 16 if run.method.kind in ("lora", "qlora") else 1
    trainable = int(TRAINABLE[run.method.kind] * scale)
    train = {
        "steps": 40, "epochs": 1.0, "tokens": 20480, "scored_tokens": 8000, "final_loss": 2.5,
        "seconds": 13.2 if run.method.kind == "full" else 8.1 + scale,
        "seconds_per_epoch": 13.2 if run.method.kind == "full" else 8.1, "tokens_per_second": 12_412.0,
        "peak_memory_bytes": (1500 if run.method.kind == "full" else 812) << 20, "peak_memory_kind": "resident",
        "world_size": 1, "micro_batch_size": 8, "accumulation": 4, "global_batch_size": 32, "zero_stage": 0,
        "learning_rate": run.train.learning_rate, "validation": early_stopping,
    }  # fmt: skip
    return Record.model_validate(
        {
            "run_id": run.id, "arm": run.arm, "label": run.label, "seed": run.seed, "point": run.point,
            "method": run.method.relevant(),
            "model": {
                "path": run.model.path, "parameters_total": 1_765_000 + (trainable if scale else 0),
                "parameters_trainable": trainable, "dtype": "float32", "trainable_dtype": "float32",
                "attention": "sdpa",
            },
            "data": {
                "task": "instruction", "path": "builtin:word-problems", "token_hash": token_hash,
                "tokenizer_hash": "t" * 64, "bos": True, "train_examples": 2000, "validation_examples": 200,
                "eval_examples": ROWS, "truncated_examples": 3,
            },
            "train": train if run.trains else None,
            "evaluate": evaluate,
            "generation": {"prompts": 2, "new_tokens": 5, "seconds": 0.1, "tokens_per_second": 50.0},
            "environment": environment,
            "attempts": 1,
            "device_seconds": 12.5,
        }
    )  # fmt: skip


def whole(path: Path, **settings: Any) -> Synthetic:
    """An experiment with every run finished: full best, then the LoRAs by rank, base last."""
    made = Synthetic(path, **settings)
    nats = {"base": 3.2, "lora": 2.5, "qlora": 2.52, "full": 2.45, "partial": 2.6}
    for run in made.runs:
        made.finish(run, nats[run.method.kind] - (0.04 if run.method.rank > 4 else 0) + 0.01 * run.seed)
    return made


def test_the_made_scores_agree_with_the_made_record(tmp_path):
    made = whole(tmp_path / "whole")
    folder = made.folder.run(made.of("full").id)
    record = folder.read_record()
    assert record is not None
    nll, tokens = read_scores(folder.scores / "test.parquet")
    assert record.evaluate["test"]["perplexity"] == pytest.approx(np.exp(nll.sum() / tokens.sum()), rel=1e-12)
