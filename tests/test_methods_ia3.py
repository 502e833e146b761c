"""(IA)^3: where its scales go in a model, what they compute, and what becomes of them in a merge."""

from __future__ import annotations

import io

import pytest
import torch
from adapter_cases import pruned_llama
from conftest import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from merging_cases import gpt2_base, llama_base, opened, silent
from peft import PeftModel, get_peft_model
from rich.console import Console
from safetensors.torch import load_file
from training_cases import one_thread as one_thread
from training_cases import prepare
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    MambaConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
)

from lora_dist.config.sections import MethodSection, ModelSection
from lora_dist.errors import ModelError, Refused
from lora_dist.models.adapter_folder import find_adapter
from lora_dist.models.adapters import check_saved_adapter
from lora_dist.models.ia3 import ia3_config, places_of
from lora_dist.models.merging import open_merge
from lora_dist.models.scale_merging import ScaleMerge
from lora_dist.reporting.adapters_table import adapters_table
from lora_dist.verbs.adapter_list import adapter_list
from lora_dist.verbs.merge import MergeRequest, merge_adapters

IDS = torch.arange(12).view(2, 6)
SIZES = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 32}  # fmt: skip
OPT = {"vocab_size": 32, "hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
       "word_embed_proj_dim": 24, "max_position_embeddings": 32}  # fmt: skip
PLACES = {
    "qwen2": (Qwen2Config(**SIZES), {"k_proj", "v_proj", "down_proj"}, {"down_proj"}),
    "gemma": (GemmaConfig(**SIZES, head_dim=8), {"k_proj", "v_proj", "down_proj"}, {"down_proj"}),
    "phi3": (Phi3Config(**SIZES, pad_token_id=0), {"qkv_proj", "down_proj"}, {"down_proj"}),
    "phi": (PhiConfig(**SIZES), {"k_proj", "v_proj", "fc2"}, {"fc2"}),
    "opt": (OPTConfig(**OPT), {"k_proj", "v_proj", "fc2"}, {"fc2"}),
    "gpt-neox": (GPTNeoXConfig(**SIZES), {"query_key_value", "dense_4h_to_h"}, {"dense_4h_to_h"}),
}


def opt_base(folder):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(OPTConfig(**OPT, init_std=0.2)).save_pretrained(folder)
    return folder


BASES = {"llama": llama_base, "gpt2": gpt2_base, "opt": opt_base}  # outputs first, inputs first, with biases


def scaled(base, folder, **method):
    """A saved adapter of random scales."""
    model = opened(base)
    model = get_peft_model(model, ia3_config(model, MethodSection(kind="ia3", **method)))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ia3_l" in name:
                weight.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                weight.normal_()
    model.save_pretrained(folder)
    return folder


def vectors(folder):
    prefix = "base_model.model."
    found = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix(prefix).removesuffix(".ia3_l"): vector.flatten() for name, vector in found.items()}


@pytest.mark.parametrize("family", PLACES)
def test_the_places_of_the_paper_are_found_by_the_structure(family):
    config, targets, feedforward = PLACES[family]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = ia3_config(model, MethodSection(kind="ia3"))
    assert (found.target_modules, found.feedforward_modules) == (targets, feedforward)


def test_names_that_mean_more_than_the_places_are_made_longer(tmp_path):
    model = opened(gpt2_base(tmp_path))  # attn.c_proj and mlp.c_proj
    found = ia3_config(model, MethodSection(kind="ia3"))
    assert (found.target_modules, found.feedforward_modules) == ({"attn.c_attn", "mlp.c_proj"}, {"mlp.c_proj"})
    both = places_of(model, MethodSection(kind="ia3", targets=["c_proj"]))
    assert both.scaled_outputs == ("transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj")
    assert both.scaled_inputs == ("transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj")
    config = ia3_config(model, MethodSection(kind="ia3", targets=["c_proj"]))
    wrapped = get_peft_model(model, config)
    kinds = {name: module.is_feedforward for name, module in wrapped.named_modules() if hasattr(module, "ia3_l")}
    assert sum(kinds.values()) == 2
    assert all(is_feedforward == (".mlp." in name) for name, is_feedforward in kinds.items())


def test_a_model_without_these_places_is_refused_with_the_names_that_it_has():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1))
    with pytest.raises(ModelError, match=r"key and value projections of MambaForCausalLM .* name its linears: in_proj"):
        ia3_config(model, MethodSection(kind="ia3"))
    assert ia3_config(model, MethodSection(kind="ia3", targets="in_proj")).target_modules == {"in_proj"}


def test_null_targets_are_the_places_of_the_paper():
    assert MethodSection(kind="ia3", targets=None) == MethodSection(kind="ia3")


def wide(module, x, vector, *, inputs):
    """What a linear with a scale computes, written out."""
    from torch.nn.functional import linear

    weight = module.weight if isinstance(module, torch.nn.Linear) else module.weight.T
    return linear(x * vector, weight, module.bias) if inputs else vector * linear(x, weight, module.bias)


@pytest.mark.parametrize("family", BASES)
def test_the_forward_pass_scales_keys_values_and_what_the_down_projection_is_given(tmp_path, family):
    """Against the base with hooks that compute each scaled linear by hand."""
    base = BASES[family](tmp_path / "base")
    adapter = scaled(base, tmp_path / "adapter")
    plain, found = opened(base), vectors(adapter)
    down = {"llama": "down_proj", "gpt2": "mlp.c_proj", "opt": "fc2"}[family]
    for name, vector in found.items():
        module = plain.get_submodule(name)
        is_down = name.endswith(down)
        module.register_forward_hook(
            lambda module, given, _, vector=vector, is_down=is_down: wide(module, given[0], vector, inputs=is_down)
        )
    model = PeftModel.from_pretrained(opened(base), adapter).eval()
    with torch.no_grad():
        expected, logits = plain(IDS).logits, model(IDS).logits
        assert torch.allclose(logits, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits, opened(base)(IDS).logits, atol=1e-2)
    assert len(found) == 2 * (2 if family == "gpt2" else 3)


@pytest.mark.parametrize("family", BASES)
def test_a_merge_from_disk_to_disk_is_what_peft_merges_in_memory(tmp_path, family):
    base = BASES[family](tmp_path / "base")
    adapter = scaled(base, tmp_path / "adapter")
    merge = open_merge(ModelSection(path=str(base)), [find_adapter(str(adapter))])
    assert isinstance(merge, ScaleMerge)
    (tmp_path / "merged").mkdir()
    told = merge.write(tmp_path / "merged", silent)
    theirs = PeftModel.from_pretrained(opened(base), adapter).merge_and_unload().state_dict()
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    for name, weight in ours.items():
        twin = next(key for key in (name, f"transformer.{name}", f"model.{name}") if key in theirs)
        assert torch.allclose(weight, theirs[twin], rtol=1e-6, atol=0), name
    changed = {name for name, weight in load_file(base / "model.safetensors").items() if not weight.equal(ours[name])}
    assert len([name for name in changed if name.endswith("weight")]) == told.linears == len(vectors(adapter))
    assert (told.kept_zeros, told.filled) == (True, 0)


@settings(deadline=None, max_examples=8)
@given(low=st.floats(-2, 0.9), high=st.floats(1.1, 3), seed=st.integers(0, 99))
def test_a_merge_keeps_every_zero_of_a_pruned_base(tmp_path_factory, low, high, seed):
    folder = tmp_path_factory.mktemp("zeros")
    base = pruned_llama(folder / "base")
    model = opened(base)
    model = get_peft_model(
        model, ia3_config(model, MethodSection(kind="ia3", targets=["q_proj", "up_proj", "down_proj"]))
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ia3_l" in name:
                weight.uniform_(low, high)
    model.save_pretrained(folder / "adapter")
    (folder / "merged").mkdir()
    told = open_merge(ModelSection(path=str(base)), [find_adapter(str(folder / "adapter"))]).write(
        folder / "merged", silent
    )
    before, after = (load_file(folder / name / "model.safetensors") for name in ("base", "merged"))
    assert all(((weight == 0) <= (after[name] == 0)).all() for name, weight in before.items())
    assert told.zeros_after >= told.zeros_before > 0
    assert told.filled == 0


def test_adapters_that_scale_cannot_be_added_to_others(tmp_path):
    base = llama_base(tmp_path / "base")
    adapters = [find_adapter(str(scaled(base, tmp_path / name))) for name in "ab"]
    with pytest.raises(
        ModelError, match=r"is an \(IA\)\^3 adapter, which scales weights and cannot be .*; merge it alone"
    ):
        open_merge(ModelSection(path=str(base)), adapters)


def test_a_scale_that_lacks_or_is_another_model_s_is_noticed(tmp_path):
    from safetensors.torch import save_file

    base = llama_base(tmp_path / "base")
    adapter = scaled(base, tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    lost = dict(list(tensors.items())[1:])
    save_file(lost, file)
    with pytest.raises(ModelError, match=r"lacks the scale of model.layers.0.mlp.down_proj, and of 1 linears in all"):
        open_merge(ModelSection(path=str(base)), [find_adapter(str(adapter))])
    save_file({name: torch.ones(3, 1) for name in tensors}, file)
    with pytest.raises(ModelError, match=r"does not fit .* and has 3 scales"):
        open_merge(ModelSection(path=str(base)), [find_adapter(str(adapter))])


def test_training_moves_the_scales_alone_and_a_merge_scores_as_they_do(tmp_path, tiny_model, problem_files):
    evaluate = {"merged": "always", "samples": 0}
    case = prepare(
        tmp_path, tiny_model, problem_files, method={"kind": "ia3"}, evaluate=evaluate, train={"learning_rate": 0.1}
    )
    record = case.work()
    assert record.model.parameters_trainable == 2 * (32 + 32 + 128) == sum(w.numel() for w in case.weights.values())
    assert record.method == {"kind": "ia3", "targets": "all-linear"}
    assert record.model.trainable_dtype == "float32"
    assert case.losses[-1] < case.losses[0]
    adapter, merged = record.merging
    assert (adapter.form, merged.form) == ("adapter", "merged")
    assert merged.perplexity == pytest.approx(adapter.perplexity, rel=1e-5)
    assert adapter.perplexity == record.evaluate["test"]["perplexity"]


def test_on_a_pruned_base_the_forms_are_measured_without_being_asked_for_and_zeros_stay(
    tmp_path, tiny_model, problem_files
):
    case = prepare(
        tmp_path, tiny_model, problem_files, method={"kind": "ia3"}, prune={"kind": "magnitude", "sparsity": 0.5},
        evaluate={"samples": 0}, train={"max_steps": 2},
    )  # fmt: skip
    record = case.work()
    assert [form.form for form in record.merging] == ["adapter", "merged"]
    assert record.merging[1].zeros == record.merging[0].zeros >= 0.49
    assert record.merging[1].filled == 0
    assert record.prune.measured_sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [({"x.k_proj.ia3_l": torch.ones(3, 1)}, "changes nothing"), ({"x.k_proj.ia3_l": torch.full((3, 1), 1.5)}, None)],
)
def test_scales_that_are_all_one_were_not_trained(tmp_path, tensors, told):
    from safetensors.torch import save_file

    from lora_dist.errors import LoraDistError

    save_file(tensors, tmp_path / "adapter_model.safetensors")
    if told is None:
        check_saved_adapter(tmp_path)
        return
    with pytest.raises(LoraDistError, match=told):
        check_saved_adapter(tmp_path)


def test_a_linear_that_is_not_there_is_refused_by_name(tmp_path, tiny_model, problem_files):
    with pytest.raises(Refused, match=r"method.targets: no linear of this model is called 'fc9'"):
        prepare(tmp_path, tiny_model, problem_files, method={"kind": "ia3", "targets": ["k_proj", "fc9"]})


def test_base_prefix_and_ia3_are_compared_and_listed_in_one_go(tmp_path, write_experiment):
    write_experiment(
        arms={
            "base": {"method": {"kind": "base"}},
            "prefix": {"method": {"kind": "prefix", "virtual_tokens": 4}},
            "ia3": {"method": {"kind": "ia3"}, "train": {"learning_rate": 0.1}},
        },
        train={"max_steps": 3},
    )
    done = run_cli("compare", "small.yaml", cwd=tmp_path)
    assert done.code == 0, done.err
    report = (tmp_path / "runs/small/report/report.md").read_text()
    assert all(word in report for word in ("| base", "| prefix", "| ia3"))
    found = {row.kind: row for row in adapter_list(tmp_path / "runs")}
    assert (found["prefix"].virtual_tokens, found["prefix"].targets, found["prefix"].rank) == (4, None, None)
    assert (found["ia3"].virtual_tokens, found["ia3"].targets) == (None, ["down_proj", "k_proj", "v_proj"])
    console = Console(width=160, file=io.StringIO())
    console.print(adapters_table(list(found.values()), 160))
    assert all(word in console.file.getvalue() for word in ("prefix 4", "ia3", "down,k,v; seed 0"))
    (run,) = tmp_path.glob("runs/small/ia3-*")
    merged = merge_adapters(MergeRequest((str(run),), tmp_path / "merged", words=("data.max_eval_examples=4",)))
    assert [model["name"] for model in merged.evaluation["models"]] == ["base", "base + adapter", "merged"]
    assert merged.document["kind"] == "ia3"
    assert "An (IA)^3 adapter merged into" in (tmp_path / "merged/README.md").read_text()
