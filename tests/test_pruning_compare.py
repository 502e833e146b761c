"""Pruned arms, from the command that a user types to the table: pruned alone, and pruned then trained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from comparison_cases import record, run_folder, write
from conftest import REPOSITORY, run_cli
from peft import PeftModel
from pruning_cases import masks_of, shards_of, weights_of
from test_compare import plain_perplexity
from transformers import AutoModelForCausalLM

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment
from lora_dist.models.adapter_files import PEFT_TYPE
from lora_dist.models.adapters import put_adapter
from lora_dist.pipeline.merged_forms import wants_forms

ARMS = {
    "dense": {"method": {"kind": "base"}, "prune": None},
    "pruned": {"method": {"kind": "base"}},
    "lora": {"method": {"kind": "lora", "rank": 4}},
    "filling": {"method": {"kind": "lora", "rank": 4, "preserve_sparsity": False}},
    "qlora": {"method": {"kind": "qlora", "rank": 4}},
    "full": {"method": {"kind": "full"}, "train": {"learning_rate": 0.002}},
    "pattern": {"method": {"kind": "base"}, "prune": {"pattern": "2:4", "mode": "dense_inputs"}},
    "magnitude": {"method": {"kind": "base"}, "prune": {"kind": "magnitude"}},
}
PRUNE = {"sparsity": 0.5, "calibration": {"samples": 8, "length": 128}}


@pytest.fixture(scope="module")
def compared(tmp_path_factory, tiny_model, problem_files):
    folder = tmp_path_factory.mktemp("compared")
    write(folder, tiny_model, problem_files, arms=ARMS, prune=PRUNE)
    return folder, run_cli("compare", "small.yaml", cwd=folder)


def test_pruned_arms_stand_in_the_table_beside_the_dense_ones(compared):
    folder, done = compared
    assert done.code == 0, done.err
    records = {arm: record(folder, arm) for arm in ARMS}
    assert len({document["data"]["token_hash"] for document in records.values()}) == 1
    assert records["dense"]["prune"] is None
    for arm in ("pruned", "lora", "qlora", "full"):
        part = records[arm]["prune"]
        assert (part["kind"], part["mode"], part["calibration_samples"]) == ("sparsegpt", "exact", 8)
        assert part["sparsity"] == pytest.approx(0.5, abs=1e-3)
        assert part["linears"] == 2 * 7
        assert part["mean_squared_error"] > 0
        assert part["largest_damping"] == 0.01
        assert part["seconds"] > 0
    assert records["pattern"]["prune"]["is_approximate"] is True
    assert records["pattern"]["prune"]["sparsity"] == 0.5
    assert records["magnitude"]["prune"]["calibration_samples"] == 0
    assert records["lora"]["evaluate"]["test"]["perplexity"] < records["pruned"]["evaluate"]["test"]["perplexity"]
    assert "approximate" in done.out
    page = (folder / "runs" / "small" / "report" / "report.html").read_text()
    assert "dense inputs (approximate)" in page
    assert (folder / "runs" / "small" / "report" / "quality_vs_sparsity.png").stat().st_size > 1000


def test_zeros_are_still_there_in_what_was_measured_unless_whole_weights_were_trained(compared):
    """Adapters and 4-bit quantisation leave a pruned base its zeros; full fine-tuning fills them, and that is said."""
    folder, done = compared
    for arm in ("pruned", "lora", "qlora", "pattern", "magnitude"):
        part = record(folder, arm)["prune"]
        assert part["measured_sparsity"] >= part["sparsity"]  # rounding to 4 bits makes some more
    assert record(folder, "qlora")["model"]["quantization"]["linears_4bit"] == 2 * 7
    assert record(folder, "full")["prune"]["measured_sparsity"] < 0.1
    assert "fills the zeros again" in " ".join(done.out.split())


def test_runs_that_prune_alike_share_one_pruned_model(compared):
    folder, _ = compared
    shared = list((folder / "runs" / "small" / "pruned").glob("[0-9a-f]*"))
    assert len(shared) == 3  # sparsegpt, pattern, magnitude
    names = ("pruned", "lora", "qlora", "full")
    files = [run_folder(folder, arm) / "pruned" / "model-00001-of-00003.safetensors" for arm in names]
    assert len({file.stat().st_ino for file in files}) == 1
    assert len({file.read_bytes() for file in files}) == 1


def test_a_pruned_model_opens_in_plain_transformers_with_its_zeros_and_its_perplexity(compared, tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _ = compared
    pruned = run_folder(folder, "pruned") / "pruned"
    model = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32)
    for name, keep_RC in masks_of(pruned).items():
        weight_RC = model.get_parameter(name)
        assert torch.equal(weight_RC != 0, keep_RC)
    dense = weights_of(tiny_model)
    assert torch.equal(model.lm_head.weight, dense["lm_head.weight"].float())
    (tokens,) = (folder / "runs" / "small" / "tokens").glob("*/test.parquet")
    expected = record(folder, "pruned")["evaluate"]["test"]["perplexity"]
    assert plain_perplexity(model, tokens) == pytest.approx(expected, rel=1e-5)
    assert len(AutoTokenizer.from_pretrained(pruned)) == len(AutoTokenizer.from_pretrained(tiny_model))


def test_an_ordinary_adapter_of_a_pruned_base_opens_in_plain_peft(compared):
    folder, _ = compared
    model = PeftModel.from_pretrained(pruned_base(folder, "filling"), run_folder(folder, "filling") / "model")
    (tokens,) = (folder / "runs" / "small" / "tokens").glob("*/test.parquet")
    expected = record(folder, "filling")["evaluate"]["test"]["perplexity"]
    assert plain_perplexity(model, tokens) == pytest.approx(expected, rel=1e-5)


def test_the_forms_of_an_adapter_stand_before_and_after_merging_with_the_zeros_of_each(compared):
    folder, done = compared
    forms = {
        arm: {form["form"]: form for form in record(folder, arm)["merging"]} for arm in ("lora", "filling", "qlora")
    }
    assert list(forms["lora"]) == ["adapter", "merged"]
    assert list(forms["filling"]) == ["adapter", "merged", "merged_masked"]
    assert list(forms["qlora"]) == ["base_4bit", "adapter_4bit", "adapter", "merged"]
    for arm, trained in (("lora", "adapter"), ("filling", "adapter"), ("qlora", "adapter_4bit")):
        measured = record(folder, arm)["evaluate"]["test"]
        assert forms[arm][trained]["versus_trained"] is None
        assert forms[arm][trained]["perplexity"] == measured["perplexity"]
        assert forms[arm]["merged"]["scored_tokens"] == measured["scored_tokens"]
        assert forms[arm]["merged"]["perplexity"] == pytest.approx(forms[arm]["adapter"]["perplexity"], rel=1e-5)
    for arm, form, filled in (
        ("lora", "merged", 0), ("qlora", "merged", 0), ("filling", "merged", 1), ("filling", "merged_masked", 0)
    ):  # fmt: skip
        assert forms[arm][form]["filled"] == pytest.approx(filled, abs=1e-4)
        assert forms[arm][form]["zeros"] == pytest.approx(0.5 * (1 - filled), abs=1e-3)
    assert record(folder, "full")["merging"] == record(folder, "pruned")["merging"] == []
    told = " ".join(done.out.split())
    assert "Before and after merging" in told
    assert "Merging filling fills the zeros of the pruned base again" in told
    assert not list((folder / "runs" / "small").glob("*/.merging"))


def test_each_form_is_what_plain_libraries_make_of_the_files(compared):
    """The numbers beside the trained one: peft's merge with the mask put on afterwards, and the 16-bit base."""
    folder, _ = compared
    (tokens,) = (folder / "runs" / "small" / "tokens").glob("*/test.parquet")
    model = PeftModel.from_pretrained(pruned_base(folder, "filling"), run_folder(folder, "filling") / "model")
    merged = model.merge_and_unload()
    masked = pruned_base(folder, "filling")
    with torch.no_grad():
        for name, weight in masked.named_parameters():
            weight.copy_(torch.where(weight == 0, weight, merged.get_parameter(name)))
    qlora = put_adapter(pruned_base(folder, "qlora"), run_folder(folder, "qlora") / "model")
    for model, arm, form in (
        (merged, "filling", "merged"),
        (masked, "filling", "merged_masked"),
        (qlora, "qlora", "adapter"),
    ):
        (found,) = (found for found in record(folder, arm)["merging"] if found["form"] == form)
        assert plain_perplexity(model, tokens) == pytest.approx(found["perplexity"], rel=1e-5)


@pytest.mark.parametrize(
    ("method", "prune", "merged", "wanted"),
    [
        ("lora", None, "auto", False),
        ("lora", PRUNE, "auto", True),
        ("qlora", None, "auto", True),
        ("qlora", None, "never", False),
        ("lora", None, "always", True),
        ("full", PRUNE, "always", False),
        ("base", PRUNE, "auto", False),
    ],
)
def test_forms_are_measured_where_merging_may_change_something_or_where_asked(method, prune, merged, wanted):
    (run,) = expand(
        Experiment(
            name="x",
            model={"path": "builtin:tiny-llama"},
            data={"task": "causal_lm", "path": "builtin:general-text"},
            method={"kind": method},
            prune=prune and {"kind": "sparsegpt", **prune},
            evaluate={"merged": merged},
        )
    )
    assert wants_forms(run) is wanted


def test_one_that_keeps_zeros_is_refused_by_plain_peft_and_merges_into_what_was_measured(compared):
    folder, _ = compared
    base, adapter = pruned_base(folder, "lora"), run_folder(folder, "lora") / "model"
    with pytest.raises(KeyError, match=PEFT_TYPE):
        PeftModel.from_pretrained(base, adapter)
    merged = put_adapter(base, adapter).merge_and_unload()
    (tokens,) = (folder / "runs" / "small" / "tokens").glob("*/test.parquet")
    expected = record(folder, "lora")["evaluate"]["test"]["perplexity"]
    assert plain_perplexity(merged, tokens) == pytest.approx(expected, rel=1e-5)
    before = dict(pruned_base(folder, "lora").named_parameters())
    assert all(torch.equal(weight == 0, before[name] == 0) for name, weight in merged.named_parameters())


def pruned_base(folder, arm):
    return AutoModelForCausalLM.from_pretrained(run_folder(folder, arm) / "pruned", dtype=torch.float32)


def test_prune_ends_with_a_table_the_files_and_the_next_command(tmp_path, tiny_model, problem_files, compared):
    write(tmp_path, tiny_model, problem_files, prune=PRUNE)
    done = run_cli("prune", "small.yaml", cwd=tmp_path)
    assert done.code == 0, done.err
    for word in ("self_attn.q_proj", "mean squared error", "50.00%", "masks:", "next:", "lora-dist evaluate --model"):
        assert word in done.out
    (run,) = (tmp_path / "runs" / "small").glob("run-*")
    assert shards_of(run / "pruned") == shards_of(run_folder(compared[0], "pruned") / "pruned")
    assert not (run / "record.json").exists()
    status = run_cli("status", "runs/small", cwd=tmp_path)
    assert "pruned, and not yet measured" in " ".join(status.out.split())
    report = json.loads((run / "pruned" / "pruning.json").read_text())
    assert [block["block"] for block in report["blocks"]] == [0, 1]


def test_ranks_under_accelerate_launch_write_what_one_process_does(tmp_path, tiny_model, problem_files, compared):
    write(tmp_path, tiny_model, problem_files, prune=PRUNE, output_dir=str(tmp_path / "runs"))
    config = REPOSITORY / "launch" / "cpu_ddp.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file", config]
    done = subprocess.run(
        [*map(str, launch), "-m", "lora_dist", "prune", str(tmp_path / "small.yaml")],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 rank(s)" in done.stdout
    (run,) = (tmp_path / "runs" / "small").glob("run-*")
    assert shards_of(run / "pruned") == shards_of(run_folder(compared[0], "pruned") / "pruned")


def test_a_stop_signal_keeps_whole_blocks_and_the_same_command_goes_on(tmp_path, tiny_model, problem_files):
    """With enough samples to be caught in the middle; asked to stop, it ends with 4 and leaves no half block."""
    document = {"sparsity": 0.5, "calibration": {"samples": 30, "length": 128, "shuffle": True}}
    write(tmp_path, tiny_model, problem_files, prune=document)
    words = [sys.executable, "-m", "lora_dist", "prune", "small.yaml"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/small/pruned/.*.partial/blocks/00000.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.fail("it was over before it heard the signal: give it more samples")
    assert process.returncode == 4, said
    (partial,) = tmp_path.glob("runs/small/pruned/.*.partial")
    assert not list(partial.rglob("*.tmp"))
    (run,) = (tmp_path / "runs" / "small").glob("run-*")
    assert json.loads((run / "outcome.json").read_text())["outcome"] == "interrupted"
    assert not (run / "pruned").exists()
    assert run_cli("prune", "small.yaml", cwd=tmp_path).code == 0
    stopped = shards_of(run / "pruned")
    assert run_cli("prune", "small.yaml", "name=again", cwd=tmp_path).code == 0
    (again,) = (tmp_path / "runs" / "again").glob("run-*")
    assert shards_of(again / "pruned") == stopped


@pytest.mark.slow  # makes the built-in model: half a minute
def test_the_recipe_ends_in_a_table_in_which_sparsegpt_is_before_wanda_and_magnitude(tmp_path):
    done = run_cli("compare", "pruning", cwd=tmp_path, timeout=500)
    assert done.code == 0, done.err
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/pruning/*/record.json")]
    found = {
        (document["arm"], document["point"].get("prune.sparsity")): document["evaluate"]["test"]["perplexity"]
        for document in records
    }
    assert len(found) == 12
    dense = found["dense", None]
    for sparsity in (0.5, 0.7, 0.8):
        kinds = [found[kind, sparsity] for kind in ("sparsegpt", "wanda", "magnitude")]
        assert [dense, *kinds] == sorted([dense, *kinds])
    assert dense < found["sparsegpt-lora", None] < found["sparsegpt", 0.7]
