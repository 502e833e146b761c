"""A classification from the command that a user types to the report: an encoder, every method, and what is refused."""

from __future__ import annotations

import csv
import json
import re

import pyarrow.parquet as pq
import pytest
from classification_cases import CLASSIFICATION, LABELS, save_encoder, sentence_files
from comparison_cases import record, run_folder, write
from conftest import run_cli
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lora_dist.config.loading import data_override, load_experiment
from lora_dist.errors import UserError
from lora_dist.pipeline.preflight import Preflight
from lora_dist.verbs.evaluate import evaluate_model
from lora_dist.verbs.train import only_run

TRAIN = {"max_steps": 60, "global_batch_size": 16, "learning_rate": 0.02, "checkpoint_steps": 100}
ARMS = {
    "base": {"method": {"kind": "base"}},
    "lora": {"method": {"kind": "lora", "rank": 4, "targets": ["query", "value"]}},
    "partial": {"method": {"kind": "partial", "top_blocks": 1}},
    "full": {"method": {"kind": "full"}, "train": {"learning_rate": 0.01}},
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """One finished comparison of every method: its folder, the encoder, and what the command printed."""
    folder = tmp_path_factory.mktemp("compared")
    encoder = save_encoder(folder / "encoder")
    write(folder, encoder, sentence_files(folder), data=CLASSIFICATION, train=TRAIN, arms=ARMS, seeds=[1])
    return folder, encoder, run_cli("compare", "small.yaml", cwd=folder)


def test_every_method_ends_in_one_table_and_beats_the_commonest_label(compared):
    folder, _, done = compared
    assert done.code == 0, done.err
    records = {arm: record(folder, arm) for arm in ARMS}
    assert len({document["data"]["token_hash"] for document in records.values()}) == 1
    for arm, document in records.items():
        assert arm in done.out
        assert document["data"]["labels"] == LABELS
        assert sum(document["data"]["label_counts"]["test"]) == document["data"]["eval_examples"] == 60
        assert document["model"]["drawn_modules"] == ["classifier"]
        scores = document["evaluate"]["test"]
        assert scores["accuracy"] == sum(scores["confusion"][c][c] for c in range(3)) / 60
        if arm != "base":
            low, high = scores["ci95"]["accuracy"]
            assert scores["majority_accuracy"] < low < scores["accuracy"] < high
            assert document["train"]["scored_tokens"] == 60 * 16  # 144 rows are 9 whole steps


def test_the_report_tells_accuracy_and_what_chance_would_do(compared):
    folder, _, done = compared
    report = folder / "runs" / "small" / "report"
    assert {"confusion.png", "report.html", "report.md", "results.csv"} <= {path.name for path in report.iterdir()}
    words = " ".join(done.out.split())
    assert "Highest test accuracy" in words
    assert "perplexity" not in (report / "report.md").read_text()
    assert "The head of base is drawn at random" in words
    assert "Always naming train's commonest label" in words
    rows = {row["arm"]: row for row in csv.DictReader((report / "results.csv").read_text().splitlines())}
    for arm, row in rows.items():
        assert float(row["test_accuracy"]) == record(folder, arm)["evaluate"]["test"]["accuracy"]
    assert float(rows["lora"]["versus_base"]) > 0
    assert rows["lora"]["versus_base_verdict"] == "better"


def test_wrong_rows_stand_side_by_side_with_what_every_arm_says(compared):
    folder, _, _ = compared
    text = (folder / "runs" / "small" / "report" / "report.md").read_text()
    best = max(ARMS, key=lambda arm: record(folder, arm)["evaluate"]["test"]["accuracy"])
    lines = [json.loads(line) for line in (run_folder(folder, best) / "predictions.jsonl").read_text().splitlines()]
    assert lines
    for line in lines:
        assert line["reference"] != line["prediction"]
        assert line["prompt"] in text
        given = pq.read_table(run_folder(folder, best) / "scores" / "test.parquet")["predicted"][line["row"]].as_py()
        assert LABELS[given] == line["prediction"]
    assert text.count("**Text ") == len(lines)


@pytest.mark.parametrize("arm", ["lora", "full"])
def test_what_was_trained_opens_with_plain_transformers_and_says_the_same(compared, arm):
    folder, encoder, _ = compared
    place = run_folder(folder, arm) / "model"
    if arm == "full":
        model = AutoModelForSequenceClassification.from_pretrained(place)
        assert model.config.id2label == dict(enumerate(LABELS))
    else:
        base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3)
        model = PeftModel.from_pretrained(base, place)
        assert json.loads((place / "provenance.json").read_text())["classes"] == LABELS
    tokenizer = AutoTokenizer.from_pretrained(place)
    texts = [json.loads(line)["text"] for line in (folder / "test.jsonl").read_text().splitlines()]
    encoded = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    said = model.eval()(**encoded).logits.argmax(-1).tolist()
    assert said == pq.read_table(run_folder(folder, arm) / "scores" / "test.parquet")["predicted"].to_pylist()


def test_a_trained_classifier_is_measured_by_its_own_head(compared):
    folder, _, _ = compared
    place = run_folder(folder, "full") / "model"
    given = (f"model.path={place}", data_override(str(folder / "test.jsonl")), "data.task=classification")
    measured = evaluate_model(load_experiment(None, [*given, "data.max_length=16"]))
    assert measured.model.drawn_modules == []
    assert measured.evaluate["test"]["confusion"] == record(folder, "full")["evaluate"]["test"]["confusion"]


REFUSED = {
    "method.kind=qlora": "method.kind: qlora is not there for classification; use lora, partial or full",
    "prune={kind: magnitude, sparsity: 0.5}": "prune: pruning is not there for classification; set it to null",
    "evaluate.merged=always": "evaluate.merged: merged forms are not measured for classification; use auto or never",
    "data.packing=true": "data.packing: classification has one label per sequence",
    "data.block_size=8": "data.block_size: classification has no blocks",
    "data.columns.prompt=text": "data.columns.prompt: classification has text and label",
    "method.targets=[q_proj]": "method.targets: no linear of this model is called 'q_proj'; use some of query, key",
    "method.targets=[classifier]": "method.targets: 'classifier' is the output head, which is trained whole",
    "train.extra.loss_type=dft": "train.extra.loss_type: is not a field of transformers' TrainingArguments",
    "data.max_length=32": "data.max_length: 32 tokens are more than the model's context of 24",
}


def test_what_a_classification_cannot_have_is_refused_in_one_line(compared):
    folder, encoder, _ = compared
    alone = folder / "alone"
    alone.mkdir()
    write(alone, encoder, {split: folder / f"{split}.jsonl" for split in ("train", "test")}, data=CLASSIFICATION)

    def check(override):
        run = only_run(load_experiment(alone / "small.yaml", [override]))
        Preflight(alone / "tokens", lambda *_: None).check([run])

    for override, line in REFUSED.items():
        with pytest.raises(UserError) as caught:
            check(override)
        assert str(caught.value).startswith(line)
    assert [path.name for path in alone.iterdir()] == ["small.yaml"]


@pytest.mark.slow
def test_over_several_seeds_the_report_tells_the_difference_of_their_means(tmp_path):
    encoder = save_encoder(tmp_path / "encoder")
    arms, train = {arm: ARMS[arm] for arm in ("lora", "full")}, {**TRAIN, "max_steps": 20}
    write(tmp_path, encoder, sentence_files(tmp_path), data=CLASSIFICATION, train=train, arms=arms, seeds=[1, 2])
    done = run_cli("compare", "small.yaml", cwd=tmp_path)
    assert done.code == 0, done.err
    report = tmp_path / "runs" / "small" / "report"
    rows = list(csv.DictReader((report / "results.csv").read_text().splitlines()))
    mean = {arm: sum(float(row["test_accuracy"]) for row in rows if row["arm"] == arm) / 2 for arm in arms}
    (note,) = [line for line in (report / "report.md").read_text().splitlines() if "mean of 2 seeds" in line]
    value = float(re.search(r"seeds: ([+-]?[\d.]+)", note)[1])
    assert value == pytest.approx(100 * (mean["lora"] - mean["full"]), abs=0.06)
    assert "lora minus full" in note
    assert note.endswith(("points of accuracy: no difference shown.", "points of accuracy."))
