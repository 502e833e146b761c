"""compare, from the command that a user types to the report: real processes, real training, real files."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from comparison_cases import METHODS, record, run_folder, write
from conftest import run_cli


@pytest.fixture(scope="module")
def compared(tmp_path_factory, tiny_model, problem_files):
    """One finished comparison of every method: its folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("compared")
    write(folder, tiny_model, problem_files, arms=METHODS)
    return folder, run_cli("compare", "small.yaml", cwd=folder)


def test_every_method_ends_in_one_table_and_one_record_each(compared):
    folder, done = compared
    assert done.code == 0, done.err
    records = {arm: record(folder, arm) for arm in METHODS}
    assert len({document["data"]["token_hash"] for document in records.values()}) == 1
    for arm, document in records.items():
        assert arm in done.out
        scores = document["evaluate"]["test"]
        low, high = scores["ci95"]["perplexity"]
        assert low < scores["perplexity"] < high
        assert scores["perplexity"] == pytest.approx(math.exp(scores["nll_sum"] / scores["scored_tokens"]))
        assert document["device_seconds"] > 0
        assert document["attempts"] == 1
        if arm != "base":
            assert document["train"]["steps"] == 6
            assert document["train"]["global_batch_size"] == 8
            assert scores["perplexity"] < records["base"]["evaluate"]["test"]["perplexity"]
    assert records["base"]["train"] is None
    assert records["base"]["model"]["parameters_trainable"] == 0
    assert records["full"]["model"]["parameters_trainable"] == records["full"]["model"]["parameters_total"]
    assert records["lora"]["model"]["trainable_dtype"] == records["qlora"]["model"]["trainable_dtype"] == "float32"


def test_the_report_is_complete_and_self_contained(compared):
    folder, _ = compared
    report = folder / "runs" / "small" / "report"
    page = (report / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert len((report / "results.csv").read_text().splitlines()) == 1 + len(METHODS)
    assert {path.suffix for path in report.iterdir()} == {".html", ".md", ".csv", ".png"}


def test_the_base_of_a_qlora_run_really_is_in_4_bit(compared):
    folder, _ = compared
    quantization = record(folder, "qlora")["model"]["quantization"]
    assert quantization["linears_4bit"] == 2 * 7  # two blocks: q, k, v, o, gate, up, down
    assert quantization["kind"] == "nf4"
    assert quantization["double_quantization"] is True
    assert quantization["bytes_4bit"] * 2 == quantization["parameters_4bit"]
    assert record(folder, "lora")["model"]["quantization"] is None
    assert record(folder, "lora")["model"]["parameters_total"] == record(folder, "qlora")["model"]["parameters_total"]


def plain_perplexity(model: torch.nn.Module, rows: Path) -> float:
    """The perplexity of a model as anybody would compute it: one row at a time, float64 log-softmax."""
    nll, tokens = 0.0, 0
    table = pq.read_table(rows).to_pylist()
    for row in table:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].double()
        scored = labels != -100
        nll -= logits.log_softmax(-1)[scored].gather(-1, labels[scored, None]).sum().item()
        tokens += int(scored.sum())
    return math.exp(nll / tokens)


@pytest.mark.parametrize("arm", ["base", "lora", "partial", "full"])
def test_model_folders_open_in_plain_libraries_and_give_the_perplexity_of_the_record(compared, tiny_model, arm):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = compared
    saved = run_folder(folder, arm) / "model"
    if arm in ("partial", "full"):
        model = AutoModelForCausalLM.from_pretrained(saved)
    else:
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        model = PeftModel.from_pretrained(model, saved) if arm == "lora" else model
    document = record(folder, arm)
    rows = folder / "runs" / "small" / "tokens" / document["data"]["token_hash"] / "test.parquet"
    assert plain_perplexity(model.eval(), rows) == pytest.approx(document["evaluate"]["test"]["perplexity"], rel=1e-5)
    if arm != "base":
        assert AutoTokenizer.from_pretrained(saved).eos_token == "</s>"


def test_the_same_command_again_skips_every_run(compared):
    folder, _ = compared
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/small/*-*/**/*") if path.is_file()}
    done = run_cli("compare", "small.yaml", cwd=folder, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.code == 0
    assert done.err.count("  skipped ") == len(METHODS)
    assert not re.search(r"\| +torch$", done.err, re.MULTILINE), "nothing is computed, so that it takes a moment"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_status_and_report_answer_from_the_folder_alone(compared):
    folder, _ = compared
    done = run_cli("status", "runs/small", "--json", cwd=folder)
    assert done.code == 0
    assert [row["state"] for row in json.loads(done.out)] == ["completed"] * len(METHODS)
    done = run_cli("report", "runs/small", "--into", "elsewhere", cwd=folder)
    assert done.code == 0
    assert (folder / "elsewhere" / "report.html").exists()


def test_evaluate_measures_again_without_training(compared):
    folder, _ = compared
    before = {arm: record(folder, arm) for arm in METHODS}
    trained = (run_folder(folder, "lora") / "training.json").stat().st_mtime_ns
    done = run_cli("evaluate", "small.yaml", "evaluate.batch_size=3", "evaluate.samples=1", cwd=folder)
    assert done.code == 0, done.err
    assert (run_folder(folder, "lora") / "training.json").stat().st_mtime_ns == trained
    for arm, old in before.items():
        new = record(folder, arm)
        assert new["generation"]["prompts"] == 1
        assert new["evaluate"]["test"]["nll_sum"] == pytest.approx(old["evaluate"]["test"]["nll_sum"], rel=1e-6)


def test_any_model_and_adapter_can_be_measured(compared, tiny_model, problem_files):
    folder, _ = compared
    done = run_cli(
        "evaluate", "--model", tiny_model, "--adapter", run_folder(folder, "lora") / "model",
        "--data", problem_files["test"], "--json", "data.task=instruction",
        "data.columns={prompt: question, completion: answer}", "evaluate.samples=0", cwd=folder,
    )  # fmt: skip
    assert done.code == 0, done.err
    scores, before = json.loads(done.out)["evaluate"]["test"], record(folder, "lora")["evaluate"]["test"]
    assert scores["scored_tokens"] == before["scored_tokens"]
    assert scores["nll_sum"] == pytest.approx(before["nll_sum"], rel=1e-6)


def test_train_does_one_arm_in_this_process_and_compare_takes_it_over(tmp_path, tiny_model, problem_files):
    arms = {"base": METHODS["base"], "lora": METHODS["lora"]}
    write(tmp_path, tiny_model, problem_files, arms=arms)
    done = run_cli("train", "small.yaml", "--arm", "lora", cwd=tmp_path)
    assert done.code == 0, done.err
    assert record(tmp_path, "lora")["status"] == "completed"
    assert "record.json" in done.out
    done = run_cli("compare", "small.yaml", "--dry-run", cwd=tmp_path)
    assert done.out.count("finished") == 1
    assert done.out.count("to do") == 2  # the base, and the sum


def test_running_text_is_trained_on_in_blocks(tmp_path, tiny_model):
    text = "\n".join(f"Line {number}: the {number % 7} ships sail {number} miles." for number in range(400))
    (tmp_path / "text.txt").write_text(text)
    done = run_cli(
        "train", f"model.path={tiny_model}", "data={path: text.txt, task: causal_lm, block_size: 64, packing: false}",
        "train={max_steps: 4, learning_rate: 0.005, global_batch_size: 4}", "evaluate={samples: 1, max_new_tokens: 4}",
        "name=text", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("runs/text/run-*/record.json")
    scores = json.loads(path.read_text())["evaluate"]["test"]
    assert scores["scored_tokens"] > 300
    assert 0 < scores["bits_per_byte"] < 8
