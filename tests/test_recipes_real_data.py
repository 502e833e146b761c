"""Each shipped study on real data with a real small model, by overrides alone: from the command to its report."""

from __future__ import annotations

import csv
import json

import pytest
from conftest import run_cli
from test_recipes import CALIBRATION, SMALL

QUESTIONS = "data.columns={prompt: question, completion: answer}"
FITS = "data.max_length=400"
LLAMA, SUMMARIES = "method.targets=[q_proj, v_proj]", "data.task=summarization"
# The study, the kind of data that it takes, what else is said, and what its report has.
CASES = {
    "gsm8k": ("gsm8k-lora-prune", "gsm8k", (QUESTIONS, CALIBRATION, FITS), "Exact match by steps"),
    "dialogsum": ("gsm8k-lora-prune", "dialogsum_dev.jsonl", (SUMMARIES, CALIBRATION, FITS), "ROUGE-L"),
    "wikitext": ("peft-sweep", "wikitext2_valid.txt", (), "Quality against rank"),
    "alpaca": ("llama3-dolly", "alpaca", (FITS,), "trainable"),
    "tiny-gsm8k": ("tinyllama-gsm8k", "gsm8k", (QUESTIONS, FITS), "Before and after merging"),
    "tweets": ("sentiment-encoder", "sentiment_train.jsonl", (LLAMA, "seeds=[1]"), "F1 macro"),
}
MOST_OF_A_BASE = {"gsm8k": 40, "dialogsum": 60, "wikitext": 1500, "tiny-gsm8k": 40}
"""Perplexity: small-llama has learnt from these texts (from WikiText's little), and guessing would give 4,096."""
LONGEST = 900  # characters of a row: it fits the context with its template


def first(source, target):
    """A file of the first rows that are not too long."""
    lines = [line for line in source.read_text().splitlines(keepends=True) if len(line) < LONGEST]
    target.write_text("".join(lines[:400]))
    return target


@pytest.fixture
def path_of(tmp_path, shared_data):
    """The first rows of each kind, as `data.path` takes them."""

    def of(kind):
        if kind == "gsm8k":
            names = {"train": "gsm8k_train.jsonl", "test": "gsm8k_unseen.jsonl"}
            files = [f"{split}: {first(shared_data / name, tmp_path / name)}" for split, name in names.items()]
            return f"{{{', '.join(files)}}}"
        if kind == "alpaca":
            rows = json.loads((shared_data / "alpaca_demo.json").read_text())
            short = [row for row in rows if len("".join(row.values())) < LONGEST]
            (tmp_path / "alpaca.json").write_text(json.dumps(short[:400]))
            return tmp_path / "alpaca.json"
        return first(shared_data / kind, tmp_path / kind)

    return of


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_study_runs_on_real_data_by_overrides_alone(tmp_path, path_of, small_llama, case):
    """Up to 15 runs of some seconds each."""
    recipe, kind, more, expected = CASES[case]
    given = (f"name={case}", f"model.path={small_llama}", f"data.path={path_of(kind)}", *SMALL, *more)
    done = run_cli("compare", recipe, *given, cwd=tmp_path, timeout=900)
    assert done.code == 0, done.err
    report = tmp_path / "runs" / case / "report"
    rows = list(csv.DictReader((report / "results.csv").open()))
    assert {row["state"] for row in rows} == {"completed"}
    assert expected in " ".join((report / "report.md").read_text().split())
    if case in MOST_OF_A_BASE:
        (base,) = [row for row in rows if row["arm"] == "base"]
        assert 2 < float(base["test_perplexity"]) < MOST_OF_A_BASE[case]
