"""The tree on the disk: an experiment's folder and its runs' folders. The folder is the only truth about a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lora_dist.errors import StorageError
from lora_dist.store.atomic import make_folder, write_json, write_text
from lora_dist.store.record import Record, read_record

OUTCOMES = ("completed", "refused", "interrupted", "failed")


@dataclass(frozen=True)
class RunFolder:
    """`<output_dir>/<experiment>/<run-id>/`: everything about one run."""

    path: Path

    @property
    def id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.path.name

    @property
    def experiment(self) -> ExperimentFolder:
        """The folder this run is part of."""
        return ExperimentFolder(self.path.parent)

    @property
    def config(self) -> Path:
        """Every setting of the run, resolved: all that a worker is told."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """The resolved numbers: world, micro-batch x accumulation."""
        return self.path / "plan.json"

    @property
    def method(self) -> Path:
        """The method that took the place of the one asked for; not there when none did."""
        return self.path / "method.json"

    @property
    def environment(self) -> Path:
        """Versions and hardware of the newest attempt."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per optimizer step."""
        return self.path / "metrics.jsonl"

    @property
    def training(self) -> Path:
        """The training stage's summary; there when `model/` is complete."""
        return self.path / "training.json"

    @property
    def predictions(self) -> Path:
        """One JSON line per answered test prompt: prompt, reference, prediction and, if it was judged, its score."""
        return self.path / "predictions.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folders `step-N`, each with a manifest."""
        return self.path / "checkpoints"

    @property
    def pruned(self) -> Path:
        """The pruned model that is trained and measured; the same files as in the experiment's `pruned/<key>`."""
        return self.path / "pruned"

    @property
    def model(self) -> Path:
        """The trained model or adapter, as plain transformers or peft open it."""
        return self.path / "model"

    @property
    def scores(self) -> Path:
        """One parquet file per split: nll and scored tokens of each row."""
        return self.path / "scores"

    @property
    def judged(self) -> Path:
        """What the answers to the test prompts were judged by, row by row."""
        return self.scores / "answers.parquet"

    @property
    def outcome(self) -> Path:
        """How the newest attempt ended: completed, refused, interrupted or failed, with the message."""
        return self.path / "outcome.json"

    @property
    def record(self) -> Path:
        """The run's numbers; written last."""
        return self.path / "record.json"

    @property
    def heartbeat(self) -> Path:
        """How far the worker is."""
        return self.path / "heartbeat.json"

    @property
    def log(self) -> Path:
        """What the worker printed."""
        return self.path / "logs" / "worker.log"

    @property
    def lock(self) -> Path:
        """The lock that a worker holds."""
        return self.path / ".lock"

    def create(self, document: dict[str, Any]) -> None:
        """Make the folder with its `config.yaml`; a folder that has one is left as it is.

        Raises:
            StorageError: it cannot be written.
        """
        make_folder(self.path / "logs")
        if not self.config.exists():
            write_text(self.config, dump_yaml(document))

    def read_record(self) -> Record | None:
        """The record, or None while the run is not finished.

        Raises:
            StorageError: the record is corrupt.
        """
        return read_record(self.record)

    def write_outcome(self, status: str, message: str = "", **facts: Any) -> None:
        """Say how this attempt ended; `status` is one of `OUTCOMES`."""
        if status not in OUTCOMES:
            raise ValueError(f"{status!r} is not one of {OUTCOMES}")
        write_json(self.outcome, {"outcome": status, "message": message, **facts})

    def read_outcome(self) -> dict[str, Any] | None:
        """How the newest attempt ended, or None when it has not."""
        try:
            document = json.loads(self.outcome.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) and document.get("outcome") in OUTCOMES else None


@dataclass(frozen=True)
class ExperimentFolder:
    """`<output_dir>/<experiment>/`: the experiment file, the tokens, the runs, the ledger and the report."""

    path: Path

    @property
    def experiment(self) -> Path:
        """The experiment as it was last started, every section written out."""
        return self.path / "experiment.yaml"

    @property
    def ledger(self) -> Path:
        """Append-only events of all runs."""
        return self.path / "ledger.jsonl"

    @property
    def tokens(self) -> Path:
        """Tokenised data by content hash."""
        return self.path / "tokens"

    @property
    def jobs(self) -> Path:
        """Scripts and logs of the cluster's jobs, and what each was told to do. For its owner alone."""
        return self.path / "jobs"

    @property
    def submit_lock(self) -> Path:
        """The lock of who submits or ends jobs."""
        return self.path / ".submit.lock"

    def pruned(self, key: str) -> Path:
        """The pruned model that all runs with this key share."""
        return self.path / "pruned" / key

    @property
    def report(self) -> Path:
        """The comparison: report.md, report.html, results.csv, plots."""
        return self.path / "report"

    def run(self, run_id: str) -> RunFolder:
        """The folder of one run (which may not exist yet)."""
        return RunFolder(self.path / run_id)

    def runs(self) -> list[RunFolder]:
        """Every run folder there is, by name."""
        return [RunFolder(path.parent) for path in sorted(self.path.glob("*/config.yaml"))]


def open_experiment_folder(path: Path) -> ExperimentFolder:
    """The experiment folder at `path`.

    Raises:
        StorageError: there is none.
    """
    folder = ExperimentFolder(path)
    if not folder.experiment.is_file():
        there = "is not an experiment's folder (no experiment.yaml in it)" if path.exists() else "no such folder"
        raise StorageError(
            key=str(path), problem=there, fix="give the folder that compare printed, <output_dir>/<name>"
        )
    return folder


def dump_yaml(document: dict[str, Any]) -> str:
    """YAML in the order of the document's keys."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
