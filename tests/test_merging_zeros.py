"""What merging does to the zeros of a pruned base, and how much memory it takes."""

from __future__ import annotations

import pytest
import torch
from merging_cases import IDS, adapter_on, llama_base, merge_here, opened, silent, wide_adapter, wide_base
from peft import LoraConfig, get_peft_model
from pruning_cases import zero_half
from safetensors.torch import load_file

from lora_dist.config.sections import ModelSection
from lora_dist.models.adapter_folder import find_adapter
from lora_dist.models.adapters import name_kept_zeros
from lora_dist.models.device import peak_memory, reset_peak_memory, trim_memory
from lora_dist.models.merging import Merge
from lora_dist.models.sparse_lora import keep_zeros


def zeros_of(weights):
    return {name: weight == 0 for name, weight in weights.items() if "proj" in name}


@pytest.fixture
def pruned(tmp_path):
    model = opened(llama_base(tmp_path / "dense"))
    zero_half(model)
    model.save_pretrained(tmp_path / "pruned")
    return tmp_path / "pruned"


@pytest.mark.parametrize("method", ["linear", "weighted", "ties", "dare"])
def test_keep_zeros_keeps_exactly_those_of_the_base_and_without_it_they_are_filled(tmp_path, pruned, method):
    adapters = [adapter_on(pruned, tmp_path / f"a{n}", seed=n) for n in (1, 2)]
    before = zeros_of(load_file(pruned / "model.safetensors"))
    kept, counts = merge_here(pruned, adapters, tmp_path / "kept", method=method, keep_zeros=True)
    assert all(torch.equal(zero, before[name]) for name, zero in zeros_of(kept).items())
    zeros = sum(int(zero.sum()) for zero in before.values())
    assert (counts.zeros_before, counts.zeros_after, counts.filled, counts.kept_zeros) == (zeros, zeros, 0, True)
    filled, counts = merge_here(pruned, adapters, tmp_path / "filled", method=method, density=1.0)
    assert not any(zero.any() for zero in zeros_of(filled).values())
    assert (counts.zeros_before, counts.zeros_after, counts.filled, counts.kept_zeros) == (zeros, 0, zeros, False)


def test_an_adapter_that_keeps_zeros_is_merged_into_what_was_trained(tmp_path, pruned):
    model = get_peft_model(opened(pruned), keep_zeros(LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    name_kept_zeros(tmp_path / "adapter")
    expected = model.eval()(IDS).logits
    merged, counts = merge_here(pruned, [tmp_path / "adapter"], tmp_path / "merged")
    before = zeros_of(load_file(pruned / "model.safetensors"))
    assert counts.kept_zeros
    assert all(torch.equal(zero, before[name]) for name, zero in zeros_of(merged).items())
    (tmp_path / "merged" / "config.json").write_bytes((pruned / "config.json").read_bytes())
    torch.testing.assert_close(opened(tmp_path / "merged")(IDS).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_under_dora_stays_one(tmp_path):
    model = opened(llama_base(tmp_path / "dense"))
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[3] = 0
    model.save_pretrained(tmp_path / "base")
    adapter = adapter_on(tmp_path / "base", tmp_path / "adapter", use_dora=True)
    merged, _ = merge_here(tmp_path / "base", [adapter], tmp_path / "merged", keep_zeros=True)
    assert not merged["model.layers.0.self_attn.q_proj.weight"][3].any()
    assert all(weight.isfinite().all() for weight in merged.values())


def test_merging_takes_far_less_memory_than_the_model(tmp_path, monkeypatch):
    names = wide_base(tmp_path / "base")
    adapter = wide_adapter(tmp_path / "adapter", names)
    # A smaller model than those that merging is made for, so what it holds at a time is made smaller, too.
    monkeypatch.setattr("lora_dist.models.merge_stream._LEAST_SHARD", 16 * 2**20)
    monkeypatch.setattr("lora_dist.models.merging._CHUNK_WEIGHTS", 2**18)
    merge = Merge(ModelSection(path=str(tmp_path / "base")), [find_adapter(str(adapter))])
    assert merge.bytes() > 250 * 2**20
    (tmp_path / "merged").mkdir()
    trim_memory()
    cpu = torch.device("cpu")
    reset_peak_memory(cpu)
    before = peak_memory(cpu).bytes
    merge.write(tmp_path / "merged", silent)
    rise = peak_memory(cpu).bytes - before
    assert rise < 0.5 * merge.bytes(), f"{rise / 2**20:.0f} MiB for {merge.bytes() / 2**20:.0f}"
