"""Each shipped study on built-in data and a tiny model, with small limits: from the command to its report."""

from __future__ import annotations

import csv
import json

import pytest
from conftest import run_cli

from lora_dist.assets import recipe_names

SMALL = (
    "data.subset=null", "data.max_train_examples=16", "data.max_eval_examples=6", "train.max_steps=2",
    "train.global_batch_size=4", "train.micro_batch_size=4", "evaluate.samples=1", "evaluate.max_new_tokens=6",
    "evaluate.bootstrap_samples=100",
)  # fmt: skip
CALIBRATION = "prune.calibration={samples: 4, length: 64}"
STUDIES = {
    "gsm8k-lora-prune": ("data.path=builtin:symbolic-math", "data.max_length=256", CALIBRATION),
    "peft-sweep": ("data.path=builtin:general-text",),
    "llama3-dolly": ("data.path=builtin:instructions", "data.max_length=256"),
    "sentiment-encoder": ("data.path=builtin:sentiment", "method.targets=[q_proj, v_proj]", "seeds=[1]"),
    "tinyllama-gsm8k": ("data.path=builtin:word-problems", "data.max_length=256"),
}
TABLES = {
    "gsm8k-lora-prune": ("exact match", "Exact match by steps of the solution"),
    "peft-sweep": ("test ppl", "Quality against rank"),
    "llama3-dolly": ("test ppl", "trainable"),
    "sentiment-encoder": ("accuracy", "F1 macro"),
    "tinyllama-gsm8k": ("exact match", "Before and after merging"),
}


def test_the_five_studies_are_shipped():
    assert set(STUDIES) <= set(recipe_names())


def run(name, folder, tiny_model, *more):
    return run_cli("compare", name, f"model.path={tiny_model}", *SMALL, *STUDIES[name], *more, cwd=folder, timeout=900)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "llama3-dolly" else pytest.mark.slow) for name in STUDIES]
)
def test_a_study_runs_to_its_report_with_another_model_and_other_data(name, tmp_path, tiny_model):
    """Up to 14 runs of some seconds each."""
    done = run(name, tmp_path, tiny_model)
    assert done.code == 0, done.err
    report = tmp_path / "runs" / name / "report"
    rows = list(csv.DictReader((report / "results.csv").open()))
    assert {row["state"] for row in rows} == {"completed"}
    text = " ".join((report / "report.md").read_text().split())
    for expected in TABLES[name]:
        assert expected in text, expected


@pytest.mark.slow
def test_the_same_seeds_give_the_same_table_and_another_seed_moves_what_it_should(tmp_path, tiny_model):
    found = []
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        (tmp_path / folder).mkdir()
        done = run("llama3-dolly", tmp_path / folder, tiny_model, f"seeds=[{seed}]")
        assert done.code == 0, done.err
        paths = sorted((tmp_path / folder / "runs" / "llama3-dolly").glob("*/record.json"))
        records = [json.loads(path.read_text()) for path in paths]
        found.append({record["arm"]: record for record in records})
    one, two, three = found
    for arm in one:
        scores = [{**run_[arm]["evaluate"]["test"], "seconds": 0} for run_ in found]
        assert scores[0] == scores[1], arm
        assert (scores[2] == scores[0]) is (arm == "zero-shot"), arm
        assert one[arm]["data"]["token_hash"] == three[arm]["data"]["token_hash"] == two[arm]["data"]["token_hash"]
