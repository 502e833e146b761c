"""A task whose answers are judged, from the command to the report: generated, judged, paired, shown."""

from __future__ import annotations

import csv
import json
import re

import pytest
from comparison_cases import record, run_folder, write
from conftest import run_cli

from lora_dist.evaluation.generated_scores import read_judged
from lora_dist.evaluation.statistics import wilson

ARMS = {
    "base": {"method": {"kind": "base"}},
    "full": {"method": {"kind": "full"}, "train": {"learning_rate": 0.003}},
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory, tiny_model, problem_files):
    folder = tmp_path_factory.mktemp("judged")
    write(
        folder, tiny_model, problem_files, arms=ARMS,
        data={"task": "math", "path": {name: str(path) for name, path in problem_files.items()}},
        evaluate={"splits": ["test"], "samples": 2, "metrics": ["exact_match", "rouge", "bleu"], "max_new_tokens": 48,
                  "bootstrap_samples": 200, "shots": 1},
    )  # fmt: skip
    return folder, run_cli("compare", "small.yaml", cwd=folder)


def last_number(text: str) -> float | None:
    """As anybody would read it."""
    found = re.findall(r"-?\d+(?:\.\d+)?", text.rpartition("####")[2].replace(",", ""))
    return float(found[0]) if found else None


def test_every_test_prompt_is_answered_and_what_is_in_the_record_can_be_counted_again(judged):
    folder, done = judged
    assert done.code == 0, done.err
    prompts = []
    for arm in ARMS:
        document = record(folder, arm)
        lines = [json.loads(line) for line in (run_folder(folder, arm) / "predictions.jsonl").read_text().splitlines()]
        assert len(lines) == document["data"]["eval_examples"] == document["generation"]["judged"]
        prompts.append([(line["prompt"], line["reference"]) for line in lines])
        right = [last_number(line["prediction"]) == last_number(line["reference"]) for line in lines if "####" in
                 line["prediction"]]  # fmt: skip
        marked = [line["score"]["exact_match"] == 1 for line in lines if "####" in line["prediction"]]
        assert marked == right
        test = document["evaluate"]["test"]
        total = sum(line["score"]["exact_match"] for line in lines)
        assert test["exact_match"] == total / len(lines)
        assert test["ci95"]["exact_match"] == pytest.approx(wilson(int(total), len(lines)))
        assert test["rouge1"] == pytest.approx(sum(line["score"]["rouge1"] for line in lines) / len(lines))
        low, high = test["ci95"]["bleu"]
        assert low <= test["bleu"] <= high
        assert document["generation"]["shots"] == 1
        assert document["generation"]["unfinished"] == sum(not line["finished"] for line in lines)
    assert prompts[0] == prompts[1], "all arms are given the same"
    assert record(folder, "full")["evaluate"]["test"]["bleu"] > record(folder, "base")["evaluate"]["test"]["bleu"]


def test_the_report_has_a_table_of_answers_with_paired_differences(judged):
    folder, done = judged
    report = folder / "runs" / "small" / "report"
    for text in (done.out, (report / "report.md").read_text(), (report / "report.html").read_text()):
        assert "Answers to the test prompts" in text
        assert "exact match" in " ".join(text.split())
        assert "ROUGE-L" in text
    assert "after 1 solved example" in done.out.replace("\n", " ")
    rows = {row["arm"]: row for row in csv.DictReader((report / "results.csv").open())}
    statistics = {arm: read_judged(run_folder(folder, arm) / "scores" / "answers.parquet") for arm in ARMS}
    for metric in ("exact_match", "rouge1"):
        gained = float(statistics["full"][metric].mean() - statistics["base"][metric].mean())
        assert float(rows["full"][f"{metric}_versus_base"]) == pytest.approx(gained)
        assert float(rows["full"][f"test_{metric}"]) == pytest.approx(float(statistics["full"][metric].mean()))
    assert rows["full"]["bleu_versus_base_reference"] == "base"
    assert rows["base"]["exact_match_versus_base"] == ""
    assert (report / "report.md").read_text().count("**Prompt ") == 2, "side by side are the samples, not all answers"


@pytest.mark.slow
def test_measured_again_the_answers_are_the_same(judged):
    folder, _ = judged
    path = run_folder(folder, "full")
    before, scores = (path / "predictions.jsonl").read_bytes(), record(folder, "full")["evaluate"]["test"]
    done = run_cli("evaluate", "small.yaml", cwd=folder)
    assert done.code == 0, done.err
    assert (path / "predictions.jsonl").read_bytes() == before
    again = record(folder, "full")["evaluate"]["test"]
    assert {**again, "seconds": 0} == {**scores, "seconds": 0}


def test_prompts_that_leave_no_room_for_an_answer_are_refused_before_anything_is_trained(
    tmp_path, tiny_model, problem_files
):
    write(
        tmp_path, tiny_model, problem_files, arms={"lora": ARMS["full"]},
        data={"task": "instruction", "path": {name: str(path) for name, path in problem_files.items()}},
        evaluate={"splits": ["test"], "samples": 0, "judged_examples": 3},
    )  # fmt: skip
    done = run_cli("compare", "small.yaml", cwd=tmp_path)
    assert done.code == 2
    assert "evaluate.judged_examples: answers of instruction are not judged" in done.err
    assert not list(tmp_path.glob("runs/small/*/model"))
