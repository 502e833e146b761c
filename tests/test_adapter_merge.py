"""`lora-dist adapter merge`: from trained runs to a measured model folder, its card, and the hub."""

from __future__ import annotations

import json
import math
import shlex
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import experiment_document, run_cli
from merging_cases import adapter_on, by_peft, largest_gap, weights_in
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_dist import MergeRequest, load_experiment, merge_adapters
from lora_dist.config.combination import Combination
from lora_dist.config.expansion import expand
from lora_dist.errors import ModelError
from lora_dist.evaluation.perplexity import score_rows
from lora_dist.store.folders import RunFolder
from lora_dist.verbs.merge_texts import portable

ARMS = {
    "lora": {"method": {"kind": "lora", "rank": 4}},
    "qlora": {"method": {"kind": "qlora", "rank": 4}},
    "pruned": {"method": {"kind": "lora", "rank": 4}, "prune": {"kind": "magnitude", "sparsity": 0.5}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, problem_files):
    """An experiment's folder with a LoRA, a QLoRA and a run that keeps the zeros of its pruned base.

    Half a minute, once for all tests here: folders as a user has them, from the real command.
    """
    folder = tmp_path_factory.mktemp("trained")
    document = experiment_document(tiny_model, problem_files, arms=ARMS, evaluate={"samples": 0, "splits": ["test"]})
    document["launch"] = {"slurm": {"account": "secret-account"}}
    document["train"]["extra"] = {"hub_token": "hf_secret"}
    (folder / "small.yaml").write_text(yaml.safe_dump(document))
    done = run_cli("compare", "small.yaml", cwd=folder)
    assert done.code == 0, done.err
    return folder / "runs" / "small"


def run_of(trained, arm) -> RunFolder:
    (found,) = [RunFolder(path) for path in trained.glob(f"{arm}-*")]
    return found


def asked(*adapters, into, **options) -> MergeRequest:
    return MergeRequest(adapters=tuple(str(adapter) for adapter in adapters), into=into, **options)


def perplexities(result) -> dict[str, float]:
    return {model["name"]: model["perplexity"] for model in result.evaluation["models"]}


def card_of(folder) -> tuple[dict, str]:
    """Front matter and text."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_command_merges_a_run_measures_it_and_says_what_comes_next(tmp_path, trained, tiny_model):
    run = run_of(trained, "lora")
    done = run_cli("adapter", "merge", run.path, "--into", "merged", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.err == ""
    assert "base + adapter" in done.out
    assert "next:      lora-dist evaluate --model merged --data" in done.out

    document = json.loads((tmp_path / "merged" / "merge.json").read_text())
    models = {model["name"]: model for model in document["evaluation"]["models"]}
    record = json.loads(run.record.read_text())
    assert list(models) == ["base", "base + adapter", "merged"]
    assert models["base + adapter"]["perplexity"] == pytest.approx(record["evaluate"]["test"]["perplexity"], rel=1e-6)
    assert models["merged"]["perplexity"] == pytest.approx(models["base + adapter"]["perplexity"], rel=1e-5)
    assert document["evaluation"]["token_hash"] == record["data"]["token_hash"]
    low, high = models["base"]["merged_minus"]["ci95"]
    assert low < models["merged"]["perplexity"] - models["base"]["perplexity"] < high < 0

    assert document["base"]["fingerprint"] == document["adapters"][0]["provenance"]["base"]["fingerprint"]
    assert document["adapters"][0]["base"] == "same"
    assert not document["forced"]
    weights, _ = weights_in(tmp_path / "merged", None)
    assert largest_gap(weights, by_peft(tiny_model, [run.model])) < 1e-6
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.dtype == torch.float32
    again, before = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "merged", tiny_model))
    assert again("12 apples").input_ids == before("12 apples").input_ids


def test_the_card_tells_how_it_was_made_and_nothing_of_this_machine(tmp_path, trained, tiny_model):
    run = run_of(trained, "lora")
    result = merge_adapters(asked(run.path, into=tmp_path / "merged", words=("data.max_eval_examples=8",)))
    front, text = card_of(tmp_path / "merged")
    assert front["library_name"] == "transformers"
    assert "base_model" not in front  # a folder is no id of the hub
    assert "datasets" not in front
    assert "license" not in front
    for model in result.evaluation["models"]:
        assert f"{model['perplexity']:.4f} [{model['ci95'][0]:.4f}, {model['ci95'][1]:.4f}]" in text
    command = shlex.split(text.split("```sh\n")[1].split("\n```")[0])
    assert command == [
        "lora-dist",
        "adapter",
        "merge",
        f"small/{run.id}",
        "--into",
        "merged",
        "data.max_eval_examples=8",
    ]
    experiment = yaml.safe_load(text.split("```yaml\n")[1].split("\n```")[0])
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(experiment))
    extra = {"hub_token": "hf_secret"}
    again = expand(load_experiment(tmp_path / "again.yaml", [f"train.extra={json.dumps(extra)}"]))
    assert run.id in [each.located().id for each in again]
    assert "secret" not in text
    around = text.replace(text.split("```yaml\n")[1].split("\n```")[0], "")  # the experiment is as it was written
    for place in (str(tmp_path), str(trained), str(tiny_model)):
        assert place not in around
        assert place not in portable(result.document).decode()


def test_qlora_goes_into_the_16_bit_weights_and_all_four_numbers_are_told(tmp_path, trained, tiny_model):
    run = run_of(trained, "qlora")
    result = merge_adapters(asked(run.model, into=tmp_path / "merged", dtype="bfloat16"))
    found = perplexities(result)
    assert list(found) == ["4-bit base", "4-bit base + adapter", "base", "base + adapter", "merged"]
    record = json.loads(run.record.read_text())
    assert found["4-bit base + adapter"] == pytest.approx(record["evaluate"]["test"]["perplexity"], rel=1e-6)
    assert found["merged"] == pytest.approx(found["base + adapter"], rel=5e-3)  # bfloat16 weights
    assert found["4-bit base"] != found["base"]
    assert any("4 bit" in note for note in result.document["notes"])
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    weights, _ = weights_in(tmp_path / "merged", None)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert largest_gap(weights, by_peft(tiny_model, [run.model])) < 4e-3  # half of 2^-8 of weights near 1


def test_a_run_that_keeps_zeros_is_merged_into_its_pruned_base_and_so_is_the_next_lora(tmp_path, trained):
    run = run_of(trained, "pruned")
    result = merge_adapters(asked(run.path, into=tmp_path / "merged"))
    merged = result.document["merged"]
    assert merged["kept_zeros"]
    assert merged["filled"] == 0
    assert merged["zeros_after"] == merged["zeros_before"] == merged["weights"] // 2
    found = perplexities(result)
    assert found["merged"] == pytest.approx(found["base + adapter"], rel=1e-5)
    assert result.document["base"]["source"]
    _, text = card_of(tmp_path / "merged")
    assert "50.00% of the weights of these linears are zero" in text
    experiment = load_experiment(None, [f"model.path={tmp_path / 'merged'}", "data.task=causal_lm", "data.path=x"])
    assert expand(experiment)[0].method.preserve_sparsity


@pytest.mark.slow
def test_a_plain_adapter_fills_the_zeros_and_keep_zeros_does_not(tmp_path, trained):
    base = run_of(trained, "pruned").pruned
    plain = adapter_on(base, tmp_path / "plain")
    filled = merge_adapters(asked(plain, into=tmp_path / "filled", evaluate=False))
    assert filled.document["merged"]["filled"] == filled.document["merged"]["zeros_before"] > 0
    assert any("--keep-zeros" in note for note in filled.document["notes"])
    assert any("was not checked" in note for note in filled.document["notes"])
    assert not (tmp_path / "filled" / "pruning.json").exists()
    kept = merge_adapters(asked(plain, into=tmp_path / "kept", evaluate=False, keep_zeros=True))
    assert kept.document["merged"]["filled"] == 0
    assert (tmp_path / "kept" / "pruning.json").read_bytes() == (base / "pruning.json").read_bytes()


@pytest.mark.slow
def test_several_adapters_are_each_measured_alone_and_together(tmp_path, trained):
    runs = [run_of(trained, arm) for arm in ("lora", "qlora")]
    how = Combination("ties", (0.7, 0.6), density=0.4)
    result = merge_adapters(asked(*(run.path for run in runs), into=tmp_path / "merged", combination=how))
    names = [f"small/{run.id}" for run in runs]
    assert list(perplexities(result)) == [
        "4-bit base", f"4-bit base + {names[1]}", "base", f"base + {names[0]}", f"base + {names[1]}", "merged",
    ]  # fmt: skip
    for run, name in zip(runs, names, strict=True):
        record = json.loads(run.record.read_text())
        kind = "base" if "qlora" not in run.id else "4-bit base"
        assert perplexities(result)[f"{kind} + {name}"] == pytest.approx(
            record["evaluate"]["test"]["perplexity"], rel=1e-6
        )
    assert result.document["combination"] == {"method": "ties", "weights": [0.7, 0.6], "density": 0.4}
    _, text = card_of(tmp_path / "merged")
    assert "TIES" in text
    assert "--method ties --weights 0.7,0.6 --density 0.4" in text


def test_scores_and_the_difference_are_those_of_the_rows(tmp_path, trained):
    """Beside sums taken here, of the models as a user opens them."""
    run = run_of(trained, "lora")
    result = merge_adapters(asked(run.path, into=tmp_path / "merged"))
    from datasets import Dataset

    rows = Dataset.from_parquet(str(next((trained / "tokens").glob("*/test.parquet"))))
    pairs = [(row["input_ids"], row["labels"]) for row in rows]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    scores = score_rows(model, pairs, batch_size=3)
    found = {item["name"]: item for item in result.evaluation["models"]}
    assert found["merged"]["perplexity"] == pytest.approx(math.exp(scores.nll_sum / scores.scored_tokens), rel=1e-6)
    assert result.evaluation["scored_tokens"] == np.sum(scores.tokens_R)
    assert found["base"]["merged_minus"]["difference"] == pytest.approx(
        found["merged"]["perplexity"] - found["base"]["perplexity"], rel=1e-9
    )


@pytest.mark.slow
def test_an_adapter_of_somebody_else_is_merged_and_it_is_said_that_it_was_not_measured(tmp_path, tiny_model):
    adapter = adapter_on(tiny_model, tmp_path / "adapter")
    done = run_cli("adapter", "merge", "adapter", "--into", "merged", cwd=tmp_path)
    assert done.code == 0, done.err
    unchecked, not_evaluated = [line for line in done.err.splitlines() if "Warning" not in line]
    assert "adapter does not say on which weights it was trained" in unchecked
    assert not_evaluated.startswith("not evaluated: ")
    assert "--data PATH data.task=..." in not_evaluated
    document = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert document["adapters"][0]["base"] == "unknown"
    assert document["evaluation"] is None
    weights, _ = weights_in(tmp_path / "merged", None)
    assert largest_gap(weights, by_peft(tiny_model, [adapter])) < 1e-6


@pytest.mark.slow
def test_other_data_are_measured_on_with_the_columns_of_the_run_or_with_all_that_is_said(
    tmp_path, trained, tiny_model, problem_files
):
    data = str(problem_files["train"])
    run = run_of(trained, "lora")
    options = {"data": data, "words": ("data.max_eval_examples=7",)}
    result = merge_adapters(asked(run.path, into=tmp_path / "one", **options))
    assert result.evaluation["rows"] == 7
    adapter = adapter_on(tiny_model, tmp_path / "adapter", scale=0.001)
    words = ("data.task=instruction", "data.columns={prompt: question, completion: answer}", "data.max_eval_examples=7")
    other = merge_adapters(asked(adapter, into=tmp_path / "two", data=data, words=words))
    assert perplexities(other)["base"] == pytest.approx(perplexities(result)["base"], rel=1e-6)


@pytest.mark.slow
def test_force_merges_into_another_base_and_says_so(tmp_path, trained, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.model.norm.weight.mul_(1.01)
    shutil.copytree(tiny_model, tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    request = asked(
        run_of(trained, "lora").path, into=tmp_path / "merged", base=str(tmp_path / "other"), evaluate=False
    )
    with pytest.raises(ModelError, match="was trained on other weights"):
        merge_adapters(request)
    assert not (tmp_path / "merged").exists()
    result = merge_adapters(MergeRequest(**{**vars(request), "force": True}))
    assert result.document["forced"]
    assert any("--force" in note for note in result.document["notes"])
    assert json.loads((tmp_path / "merged" / "merge.json").read_text())["adapters"][0]["base"] == "forced"


def test_a_measurement_that_fails_costs_the_scores_and_not_the_merge(tmp_path, trained, tiny_model, problem_files):
    adapter = adapter_on(tiny_model, tmp_path / "adapter")
    rows = [{"text": sign * 400} for sign in "~^|@[]{}_<>&"]  # which the model has hardly seen: worse than guessing
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("data.task=causal_lm", "data.columns.text=text", "data.block_size=64")
    with pytest.raises(ModelError, match=r"merged model in .* is complete, and not evaluated"):
        merge_adapters(asked(adapter, into=tmp_path / "merged", data=str(tmp_path / "odd.jsonl"), words=words))
    weights, _ = weights_in(tmp_path / "merged", None)
    assert largest_gap(weights, by_peft(tiny_model, [adapter])) < 1e-6
    assert json.loads((tmp_path / "merged" / "merge.json").read_text())["evaluation"] is None


@pytest.mark.slow
def test_json_is_one_document(tmp_path, trained):
    done = run_cli(
        "adapter", "merge", run_of(trained, "lora").path, "--into", "m", "--no-evaluate", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["folder"] == "m"
    assert document["merged"]["linears"] > 0
    assert document["not_evaluated"] == "it was asked not to be (--no-evaluate)"
