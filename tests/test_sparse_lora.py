"""LoRA that keeps the zeros of a pruned base: the update, its gradients, merging, saving and several adapters."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pruning_cases import zero_half
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lora_dist.errors import ModelError
from lora_dist.models.adapter_files import PEFT_TYPE
from lora_dist.models.adapters import name_kept_zeros, put_adapter
from lora_dist.models.masked_update import masked_update
from lora_dist.models.masks import pack_bits, unpack_bits
from lora_dist.models.sparse_lora import allow_kept_zeros, keep_zeros, refuse_dense

IDS = torch.arange(12).view(2, 6)


@pytest.fixture
def pruned_folder(tmp_path):
    """A tiny Llama, half of whose linears' weights are zero (but not the head's)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    zero_half(model)
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def opened(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def adapted(folder, *, keeps=True):
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(opened(folder), keep_zeros(config) if keeps else allow_kept_zeros(config))
    fill(model, "default")
    return model


def fill(model, adapter):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if f"lora_B.{adapter}" in name:
                weight.normal_(std=0.3)


@pytest.mark.parametrize("columns", [1, 7, 8, 21])
def test_bits_are_the_mask(columns):
    keep = torch.rand(5, columns) < 0.5
    assert torch.equal(unpack_bits(pack_bits(keep), columns), keep)


def test_the_update_and_its_gradients_are_those_of_plain_autograd(monkeypatch):
    monkeypatch.setattr("lora_dist.models.masked_update._CHUNK_WEIGHTS", 3 * 13)  # chunks of 3 rows, the last of 2
    torch.manual_seed(0)
    keep = torch.rand(11, 13) < 0.5
    x, a, b = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 5, 13), (4, 13), (11, 4)))
    y, plain = masked_update(x, a, b, pack_bits(keep), 0.7), x @ ((b @ a) * 0.7 * keep).T
    weights = torch.randn_like(plain)
    torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), (x, a, b)) for out in (y, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *given: masked_update(*given, pack_bits(keep), 0.7), (x, a, b))


def test_autocast_computes_in_its_dtype_and_gives_gradients_in_the_adapters():
    x, a, b = torch.randn(6, 16), *(torch.randn(*s, requires_grad=True) for s in ((4, 16), (8, 4)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = masked_update(x, a, b, pack_bits(torch.ones(8, 16, dtype=torch.bool)), 1.0)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert a.grad.dtype == b.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), x @ (b @ a).T, rtol=0.05, atol=0.2)  # 8 bits of mantissa


def test_merged_weights_have_the_zeros_of_the_base_and_compute_what_was_trained(pruned_folder):
    model = adapted(pruned_folder)
    before = model(IDS).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(IDS).logits, before, rtol=1e-5, atol=1e-5)
    base = dict(opened(pruned_folder).named_parameters())
    for name, weight in merged.named_parameters():
        assert torch.equal(weight == 0, base[name] == 0), name
        assert ("proj" in name) == (not torch.equal(weight, base[name])), name


def test_an_ordinary_adapter_fills_the_zeros(pruned_folder):
    merged = adapted(pruned_folder, keeps=False).merge_and_unload()
    assert sum(int((weight == 0).sum()) for name, weight in merged.named_parameters() if "proj" in name) == 0


def test_a_merge_can_be_taken_back(pruned_folder):
    model = adapted(pruned_folder)
    before = model(IDS).logits
    model.merge_adapter(safe_merge=True)
    model.unmerge_adapter()
    torch.testing.assert_close(model(IDS).logits, before, rtol=1e-5, atol=1e-5)


def test_a_saved_adapter_opens_as_what_was_trained_and_peft_alone_refuses_it(pruned_folder, tmp_path):
    model = adapted(pruned_folder)
    model.save_pretrained(tmp_path / "adapter")
    name_kept_zeros(tmp_path / "adapter")
    again = put_adapter(opened(pruned_folder), tmp_path / "adapter")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    with pytest.raises(KeyError, match=PEFT_TYPE):
        PeftModel.from_pretrained(opened(pruned_folder), tmp_path / "adapter")


def test_a_damaged_config_is_said_in_a_line(pruned_folder, tmp_path):
    adapted(pruned_folder).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="is no adapter that fits this model"):
        put_adapter(opened(pruned_folder), tmp_path / "adapter")


def test_adapters_of_both_kinds_in_one_batch_are_those_of_each_alone(pruned_folder):
    model = adapted(pruned_folder).eval()
    for name, keeps in (("plain", False), ("other", True)):
        config = LoraConfig(r=2, lora_alpha=8, target_modules="all-linear")
        model.add_adapter(name, keep_zeros(config) if keeps else config)
        fill(model, name)
    names = ["plain", "default", "__base__", "other"]
    ids = IDS[:1].expand(4, -1)
    together = model(ids, adapter_names=names).logits
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                alone = model(ids[:1]).logits
        else:
            model.set_adapter(name)
            alone = model(ids[:1]).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_training_with_checkpointed_activations_gives_the_same_gradients(pruned_folder):
    def gradients(model):
        model.enable_input_require_grads()
        model.train()(IDS, labels=IDS).loss.backward()
        return {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}

    plain, again = adapted(pruned_folder), adapted(pruned_folder)
    again.gradient_checkpointing_enable({"use_reentrant": False})
    expected, found = gradients(plain), gradients(again)
    assert all(torch.equal(found[name], grad) for name, grad in expected.items())
    assert len(expected) == 2 * 7 * 2  # A and B of seven linears in two blocks


def test_a_dense_base_has_no_zeros_to_keep(pruned_folder):
    refuse_dense(adapted(pruned_folder))
    dense = opened(pruned_folder)
    with torch.no_grad():
        for weight in dense.parameters():
            weight.add_(1.0)
    with pytest.raises(ModelError, match="nothing to keep"):
        refuse_dense(get_peft_model(dense, keep_zeros(LoraConfig(r=2, target_modules="all-linear"))))


def test_plain_adapters_are_plain_to_peft(pruned_folder, tmp_path):
    adapted(pruned_folder, keeps=False).save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    PeftModel.from_pretrained(opened(pruned_folder), tmp_path / "adapter")
