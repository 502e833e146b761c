"""Small comparisons that several tests start, and how they read what those leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from conftest import experiment_document

METHODS = {
    "base": {"method": {"kind": "base"}},
    "lora": {"method": {"kind": "lora", "rank": 4, "dropout": 0.1}},
    "qlora": {"method": {"kind": "qlora", "rank": 4}},
    "partial": {"method": {"kind": "partial", "top_blocks": 1}},
    "full": {"method": {"kind": "full"}, "train": {"learning_rate": 0.002}},
}


def write(folder: Path, model, files, **sections) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(experiment_document(model, files, **sections), sort_keys=False))
    return path


def run_folder(folder: Path, arm: str) -> Path:
    (found,) = folder.glob(f"runs/small/{arm}-*")
    return found


def record(folder: Path, arm: str) -> dict:
    return json.loads((run_folder(folder, arm) / "record.json").read_text())


def weights(folder: Path, arm: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run_folder(folder, arm) / "model").glob("*.safetensors"))}
