"""Decoders of every kind go through block by block, each block called as its own model calls it."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from family_cases import FAMILIES, VOCAB, build
from pruning_cases import ids_of, masks_of, prune_to, stream_to, weights_of
from safetensors.torch import save_file

from lora_dist.config.pruning import PruneSection
from lora_dist.errors import ModelError
from lora_dist.models.structure import decoder_blocks
from lora_dist.pruning import passes
from lora_dist.pruning.factor import upper_factor
from lora_dist.pruning.solver import sparsegpt
from lora_dist.pruning.targets import linears_of, matrix_of, structure_problems

REFUSED = {"mixtral": "mlp.experts", "llama4": "experts", "mamba": "conv1d"}
DECODERS = [family for family in FAMILIES if family not in REFUSED]
IDS = ids_of(samples=7, length=24, vocabulary=VOCAB)  # longer than the sliding windows


@pytest.fixture(autouse=True)
def small_passes(monkeypatch):
    """Three samples to a pass, and one in the last."""
    monkeypatch.setattr(passes, "PASS_TOKENS", 3 * 24)


@pytest.fixture
def saved(request, tmp_path):
    build(FAMILIES[request.param]()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder):
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def hessians_of(model, linears):
    """2/n sum x x^T of what each linear is given when the whole model runs, one sample at a time."""
    sums = dict.fromkeys(linears, 0.0)

    def listen(name, x):
        x_TC = x.reshape(-1, x.shape[-1]).double()
        sums[name] = sums[name] + x_TC.T @ x_TC

    hooks = [
        linear.register_forward_pre_hook(lambda _, given, name=name: listen(name, given[0]))
        for name, linear in linears.items()
    ]
    with torch.no_grad():
        for ids_T in IDS:
            model(input_ids=ids_T[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: (2 / len(IDS) * total).float() for name, total in sums.items()}


@pytest.mark.parametrize("saved", DECODERS, indirect=True)
def test_the_last_block_is_pruned_by_the_inputs_that_the_pruned_model_gives_it(saved, tmp_path):
    pruned = prune_to(tmp_path / "pruned", saved, PruneSection(sparsity=0.5), IDS)
    model, dense, found = load(pruned), load(saved), weights_of(pruned)
    name, blocks = decoder_blocks(model)
    last = len(blocks) - 1
    blocks[last].load_state_dict(decoder_blocks(dense)[1][last].state_dict())  # a block is observed while it is dense
    linears = linears_of(blocks[last])
    hessians = hessians_of(model, linears)
    assert set(masks_of(pruned)) == {f"{name}.{k}.{inner}.weight" for k in range(last + 1) for inner in linears}
    for inner, linear in linears.items():
        weight_RC = matrix_of(linear, linear.weight.detach())
        solved = sparsegpt(weight_RC, upper_factor(hessians[inner], 0.01), 0.5)
        actual_RC = matrix_of(linear, found[f"{name}.{last}.{inner}.weight"])
        differ = (solved.weight_RC == 0) != (actual_RC == 0)
        assert differ.float().mean() < 0.01, inner  # float32 sums in another order, and ties of rounding
        close = torch.isclose(solved.weight_RC, actual_RC, rtol=1e-2, atol=1e-3) | differ
        assert close.float().mean() > 0.97, inner


@pytest.mark.parametrize("saved", DECODERS, indirect=True)
def test_zeros_are_where_the_masks_say_and_a_sparsity_of_0_changes_nothing(saved, tmp_path):
    pruned, same = tmp_path / "pruned", tmp_path / "same"
    prune_to(pruned, saved, PruneSection(pattern="2:4"), IDS)
    prune_to(same, saved, PruneSection(sparsity=0.0), IDS)
    before, found, kept = weights_of(saved), weights_of(pruned), masks_of(pruned)
    for name, keep_RC in kept.items():
        assert torch.equal(found[name] != 0, keep_RC)
        assert keep_RC.float().mean() == 0.5
    for name, tensor in before.items():
        assert torch.equal(tensor, weights_of(same)[name])
        assert name in kept or torch.equal(tensor, found[name])


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_no_linear_is_refused_by_name(family):
    with torch.device("meta"):
        model = hf.AutoModelForCausalLM.from_config(FAMILIES[family]())
    (problem,) = structure_problems(model, PruneSection(sparsity=0.5))
    assert problem.key == "model.path"
    assert REFUSED[family] in problem.problem


@pytest.mark.parametrize("saved", ["llama"], indirect=True)
@pytest.mark.parametrize("kind", ["wanda", "magnitude"])
def test_the_baselines_leave_what_they_keep_as_it_was(saved, tmp_path, kind):
    pruned = prune_to(
        tmp_path / "pruned", saved, PruneSection(kind=kind, sparsity=0.25), IDS if kind == "wanda" else None
    )
    before, found = weights_of(saved), weights_of(pruned)
    for name, keep_RC in masks_of(pruned).items():
        assert torch.equal(found[name], before[name] * keep_RC)
        assert keep_RC.float().mean() == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("saved", ["llama"], indirect=True)
def test_overrides_skips_and_dense_blocks_are_kept_to(saved, tmp_path):
    section = PruneSection(
        sparsity=0.5,
        overrides={"down_proj": 0.25, "1.mlp.down_proj": "1:4", "q_proj": 0},
        skip=["o_proj"],
        dense_first=1,
    )
    kept = masks_of(prune_to(tmp_path / "pruned", saved, section, IDS))
    share = {name.removeprefix("model.layers."): 1 - float(keep.float().mean()) for name, keep in kept.items()}
    assert share == {
        "1.self_attn.q_proj.weight": 0, "1.self_attn.k_proj.weight": 0.5, "1.self_attn.v_proj.weight": 0.5,
        "1.mlp.gate_proj.weight": 0.5, "1.mlp.up_proj.weight": 0.5, "1.mlp.down_proj.weight": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize("saved", ["llama"], indirect=True)
def test_dense_inputs_are_those_of_the_dense_model_and_blocks_may_be_dealt(saved, tmp_path):
    section = PruneSection(sparsity=0.5, mode="dense_inputs")
    whole = weights_of(prune_to(tmp_path / "whole", saved, section, IDS))
    exact = weights_of(prune_to(tmp_path / "exact", saved, PruneSection(sparsity=0.5), IDS))
    stream, output = stream_to(tmp_path / "dealt", saved, section)
    stream.run(IDS, range(1, 2))
    assert set(output.done()) == {1}
    stream.run(IDS, range(1))
    assert set(output.done()) == {0, 1}
    dealt = {name: tensor for number in (0, 1) for name, tensor in output.read_block(number)}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in dealt.items())
    assert all(torch.equal(exact[name], whole[name]) for name in whole if ".layers.0." in name)
    assert any(not torch.equal(exact[name], whole[name]) for name in whole if ".layers.1." in name)


@pytest.mark.parametrize("saved", ["llama"], indirect=True)
@pytest.mark.parametrize("kind", ["sparsegpt", "wanda"])
@pytest.mark.parametrize(("value", "key"), [(0.0, "prune.skip"), (float("nan"), "model.dtype")])
def test_a_linear_whose_inputs_say_nothing_is_refused_by_name(saved, tmp_path, kind, value, key):
    weights = weights_of(saved)
    weights["model.layers.1.mlp.up_proj.weight"].fill_(value)  # and with it all that down_proj is given
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        prune_to(tmp_path / "pruned", saved, PruneSection(kind=kind, sparsity=0.5), IDS)
    assert caught.value.problems[0].key == key
    assert "mlp.down_proj" in str(caught.value)


@pytest.mark.parametrize("saved", ["cohere"], indirect=True)
def test_a_group_whose_last_member_is_called_last_keeps_nobody_from_being_heard(saved, tmp_path):
    """Cohere's up_proj is given what q_proj is, and is called after o_proj: with down_proj left out it is the last."""
    pruned = prune_to(tmp_path / "pruned", saved, PruneSection(sparsity=0.5, skip=["down_proj"]), IDS)
    kept = masks_of(pruned)
    assert len(kept) == 2 * 6
    assert all(keep.float().mean() == pytest.approx(0.5, abs=0.01) for keep in kept.values())
