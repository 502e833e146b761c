"""Adapters merged into their base on the disk: beside peft as an independent reference, shards, zeros, memory."""

from __future__ import annotations

import json

import pytest
import torch
from merging_cases import (
    IDS,
    adapter_on,
    by_peft,
    gpt2_base,
    largest_gap,
    llama_base,
    merge_here,
    opened,
    updates_of,
)
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from lora_dist.config.combination import Combination
from lora_dist.errors import ConfigError, ModelError
from lora_dist.models.adapter_folder import base_of, find_adapter
from lora_dist.models.combining import combined_update
from lora_dist.models.companions import with_dtype
from lora_dist.models.factors import Factors
from lora_dist.models.merge_stream import deal

SINGLE = {
    "plain": {},
    "some linears": {"target_modules": ["q_proj", "down_proj"]},
    "one block": {"layers_to_transform": [1], "target_modules": ["q_proj", "up_proj"]},
    "rank and alpha by name": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"k_proj": 5, "layers.0.self_attn.v_proj": 1},
    },
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
}


@pytest.fixture
def base(tmp_path):
    return llama_base(tmp_path / "base")


@pytest.mark.parametrize("settings", SINGLE.values(), ids=SINGLE)
def test_one_adapter_is_merged_as_peft_merges_it(tmp_path, base, settings):
    adapter = adapter_on(base, tmp_path / "adapter", **settings)
    merged, counts = merge_here(base, [adapter], tmp_path / "merged")
    expected = by_peft(base, [adapter])
    assert largest_gap(merged, expected) < 1e-6  # float32 sums of 4 products
    moved = [name for name, weight in opened(base).state_dict().items() if not torch.equal(weight, merged[name])]
    assert counts.linears == len(moved) > 0


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=["LoRA", "DoRA"])
def test_weights_that_are_stored_turned_round_are_merged_as_peft_merges_them(tmp_path, settings):
    base = gpt2_base(tmp_path / "base")
    adapter = adapter_on(base, tmp_path / "adapter", fan_in_fan_out=True, **settings)
    merged, _ = merge_here(base, [adapter], tmp_path / "merged")
    assert largest_gap(merged, {name.removeprefix("transformer."): w for name, w in by_peft(base, [adapter]).items()}
                       | by_peft(base, [adapter])) < 1e-6  # fmt: skip


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.5, -0.5), (-1.0, -0.25), (1.0, 0.0)])
def test_factors_are_added_up_as_peft_adds_them(tmp_path, base, weights):
    adapters = [adapter_on(base, tmp_path / f"a{n}", seed=n, lora_alpha=4 * n) for n in (1, 2)]
    merged, _ = merge_here(base, adapters, tmp_path / "merged", weights=weights)
    assert largest_gap(merged, by_peft(base, adapters, list(weights), "linear")) < 1e-6


@pytest.mark.parametrize("weights", [(0.7, 0.3, 1.0), (1.5, -0.5, -2.0)])
def test_updates_are_added_up_as_peft_adds_them_whatever_the_ranks(tmp_path, base, weights):
    targets = (["q_proj"], "all-linear", ["q_proj", "gate_proj"])
    adapters = [
        adapter_on(base, tmp_path / f"a{n}", seed=n, r=2 * n, target_modules=target)
        for n, target in enumerate(targets, 1)
    ]
    merged, _ = merge_here(base, adapters, tmp_path / "merged", weights=weights, method="weighted")
    expected = opened(base).state_dict()
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, update in updates_of(base, adapter).items():
            expected[name] = expected[name] + weight * update
    assert largest_gap(merged, expected) < 1e-6
    same = [adapter_on(base, tmp_path / f"b{n}", seed=n, r=2 * n) for n in (1, 2)]
    merged, _ = merge_here(base, same, tmp_path / "again", weights=weights[:2], method="weighted")
    assert largest_gap(merged, by_peft(base, same, list(weights[:2]), "cat")) < 1e-6


def ties_by_hand(updates, weights, density):
    """Yadav et al. 2023, one entry at a time: trim, elect the sign, mean of those that agree (weighted as in peft)."""
    trimmed = []
    for update in updates:
        flat = update.flatten()
        kept = flat.abs().argsort(descending=True)[: int(density * len(flat))]
        trimmed.append(torch.zeros_like(flat).scatter(0, kept, flat[kept]))
    result = torch.zeros_like(trimmed[0])
    for entry in range(len(result)):
        values = [part[entry].item() for part in trimmed]
        sign = 1 if sum(values) >= 0 else -1
        agreeing = [weight * value for value, weight in zip(values, weights, strict=True) if value * sign > 0]
        result[entry] = sum(agreeing) / max(1, len(agreeing))
    return result.view_as(updates[0])


@pytest.mark.parametrize("density", [0.2, 0.7, 1.0])
def test_ties_is_its_published_formula_on_the_updates(tmp_path, base, density):
    adapters = [adapter_on(base, tmp_path / f"a{n}", seed=n, r=n, target_modules=["v_proj"]) for n in (1, 2, 3)]
    weights = (1.0, 0.5, 0.8)
    merged, _ = merge_here(base, adapters, tmp_path / "merged", weights=weights, method="ties", density=density)
    before = opened(base).state_dict()
    updates = [updates_of(base, adapter) for adapter in adapters]
    for name in updates[0]:
        expected = before[name] + ties_by_hand([update[name] for update in updates], weights, density)
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6)


def test_dare_is_the_same_for_a_seed_and_another_for_another(tmp_path, base):
    adapters = [adapter_on(base, tmp_path / f"a{n}", seed=n, r=n) for n in (1, 2)]

    def of(name, **settings):
        return merge_here(base, adapters, tmp_path / name, method="dare", weights=(0.5, 0.5), **settings)[0]

    torch.manual_seed(5)
    first = of("first")
    torch.manual_seed(6)
    assert largest_gap(of("again"), first) == 0.0
    assert largest_gap(of("other", seed=1), first) > 0.01
    plain = merge_here(base, adapters, tmp_path / "plain", method="weighted", weights=(0.5, 0.5))[0]
    assert largest_gap(of("whole", density=1.0), plain) < 1e-6


def test_dare_is_on_average_what_the_updates_add_up_to():
    torch.manual_seed(0)
    factors = [Factors(torch.randn(3, 8), torch.randn(5, 3), 0.5) for _ in range(2)]
    weights, density, draws = (0.7, -0.4), 0.3, 1000
    cpu = torch.device("cpu")
    updates = [weight * part.scaling * part.b @ part.a for part, weight in zip(factors, weights, strict=True)]
    mean = sum(
        combined_update(factors, Combination("dare", weights, density, seed), "x", None, cpu) for seed in range(draws)
    ) / draws  # fmt: skip
    spread = (sum(update**2 for update in updates) * (1 - density) / density / draws).sqrt()
    assert ((mean - sum(updates)).abs() / spread).max() < 4.5  # 40 normal deviates: p = 3e-4


@pytest.mark.parametrize("method", ["linear", "weighted", "ties", "dare"])
def test_the_result_does_not_depend_on_shards(tmp_path, monkeypatch, method):
    whole, sharded = llama_base(tmp_path / "base"), llama_base(tmp_path / "sharded", shard="10KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    adapters = [adapter_on(whole, tmp_path / f"a{n}", seed=n) for n in (1, 2)]
    one, counts = merge_here(whole, adapters, tmp_path / "one", method=method)
    monkeypatch.setattr("lora_dist.models.merge_stream._LEAST_SHARD", 7000)
    for base in (whole, sharded):
        many, again = merge_here(base, adapters, tmp_path / f"many-{base.name}", method=method)
        assert len(list((tmp_path / f"many-{base.name}").glob("*.safetensors"))) > 5
        assert many.keys() == one.keys()
        assert largest_gap(many, one) == 0.0
        assert counts == again
    index = json.loads((tmp_path / "many-base" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == one.keys()
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in one.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "many-base" / file)


def test_shards_hold_at_most_their_limit_and_a_larger_tensor_alone():
    sizes = {"a": 3, "b": 3, "c": 9, "d": 2, "e": 2}
    assert deal(sizes, 6) == [["a", "b"], ["c"], ["d", "e"]]
    assert deal(sizes, 100) == [list(sizes)]


def test_a_bfloat16_base_is_rounded_once(tmp_path):
    base = llama_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = adapter_on(base, tmp_path / "adapter", scale=0.03)
    merged, counts = merge_here(base, [adapter], tmp_path / "merged")
    assert counts.dtype == "bfloat16"
    before, factors = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    twice = 0
    for name, weight in merged.items():
        assert weight.dtype == torch.bfloat16
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_{{}}.weight"
        if key.format("A") not in factors:
            assert torch.equal(weight, before[name])
            continue
        update = 2.0 * factors[key.format("B")] @ factors[key.format("A")]
        assert torch.equal(weight, (before[name].float() + update).bfloat16())
        twice += int((weight != before[name] + update.bfloat16()).sum())
    assert twice > 0  # rounding the update first is another thing, so the test can tell


def test_a_dtype_that_is_asked_for_is_that_of_every_weight(tmp_path, base):
    adapter = adapter_on(base, tmp_path / "adapter")
    merged, counts = merge_here(base, [adapter], tmp_path / "merged", dtype=torch.float16)
    assert {weight.dtype for weight in merged.values()} == {torch.float16}
    assert counts.dtype == "float16"
    assert largest_gap(merged, by_peft(base, [adapter])) < 1e-3  # 11 bits of mantissa


def test_what_float16_cannot_hold_is_refused(tmp_path, base):
    adapter = adapter_on(base, tmp_path / "adapter", scale=300.0)
    with pytest.raises(ModelError, match="--dtype bfloat16"):
        merge_here(base, [adapter], tmp_path / "merged", dtype=torch.float16)


def test_the_config_says_the_dtype_of_the_weights_in_all_its_parts():
    config = {"torch_dtype": "float32", "text_config": {"dtype": "float32", "hidden_size": 4}, "eos": [1]}
    assert json.loads(with_dtype(json.dumps(config).encode(), torch.bfloat16)) == {
        "dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "hidden_size": 4}, "eos": [1],
    }  # fmt: skip


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_merged_logits_are_those_before_and_the_folder_opens_anywhere(tmp_path, monkeypatch, tied):
    base = llama_base(tmp_path / "base", tied=tied, shard="10KB")
    adapter = adapter_on(base, tmp_path / "adapter")
    monkeypatch.setattr("lora_dist.models.merge_stream._LEAST_SHARD", 9000)
    merged, _ = merge_here(base, [adapter], tmp_path / "merged")
    assert ("lm_head.weight" in merged) != tied
    (tmp_path / "merged" / "config.json").write_bytes((base / "config.json").read_bytes())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert isinstance(model, LlamaForCausalLM)
    before = PeftModel.from_pretrained(opened(base), adapter).eval()(IDS).logits
    torch.testing.assert_close(model(IDS).logits, before, rtol=1e-5, atol=1e-5)
    assert (model(IDS).logits - opened(base)(IDS).logits).abs().max() > 0.01


def test_an_adapter_without_a_base_says_that_it_has_to_be_named(tmp_path, base):
    adapter = adapter_on(base, tmp_path / "adapter")
    assert base_of(find_adapter(str(adapter))).path == str(base)
    path = adapter / "adapter_config.json"
    for named in (None, str(tmp_path / "gone"), "../../etc/x", 5):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": named}))
        with pytest.raises(ModelError, match="--base"):
            base_of(find_adapter(str(adapter)))


def test_settings_that_do_not_go_together_are_refused_by_option():
    with pytest.raises(ConfigError, match="--method"):
        Combination("dare_ties").check(1)
    with pytest.raises(ConfigError, match="--weights: 1 for 2 adapters"):
        Combination(weights=(1.0,)).check(2)
    with pytest.raises(ConfigError, match="--density"):
        Combination(density=0.0).check(1)
    with pytest.raises(ConfigError, match="--weights"):
        Combination(weights=(float("nan"),)).check(1)
    with pytest.raises(ConfigError, match="--seed"):
        Combination(seed=-1).check(1)
