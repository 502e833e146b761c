"""Blocks, linears, final norm and head of decoder families that name and nest them differently."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from training_cases import one_thread as one_thread
from training_cases import prepare
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lora_dist.config.sections import MethodSection
from lora_dist.errors import ModelError
from lora_dist.models.adapters import target_problems
from lora_dist.models.methods import choose_trainable, count_parameters, method_problems
from lora_dist.models.structure import decoder_blocks, final_norm, linear_names

LLAMA_LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8}

# Each: the model, the name of its blocks and of its final norm, the last parts of its linears' names.
FAMILIES = {
    "gpt2": (
        lambda vocab: GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_embd=32, n_layer=3, n_head=4, n_positions=256)),
        "transformer.h", "transformer.ln_f", {"c_attn", "c_proj", "c_fc"},
    ),
    "opt": (
        lambda vocab: OPTForCausalLM(OPTConfig(
            vocab_size=vocab, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=256, word_embed_proj_dim=32,
        )),
        "model.decoder.layers", "model.decoder.final_layer_norm",
        {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    ),
    "gpt_neox": (
        lambda vocab: GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocab, **SHAPE)),
        "gpt_neox.layers", "gpt_neox.final_layer_norm", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    ),
    "gemma3_text": (
        lambda vocab: Gemma3ForCausalLM(Gemma3TextConfig(vocab_size=vocab, **GROUPED)),
        "model.layers", "model.norm", LLAMA_LINEARS,
    ),
    "qwen3": (
        lambda vocab: Qwen3ForCausalLM(Qwen3Config(vocab_size=vocab, **GROUPED)),
        "model.layers", "model.norm", LLAMA_LINEARS,
    ),
}  # fmt: skip
UNTIED = {"gpt_neox", "qwen3"}  # where the head is a matrix of its own; elsewhere it is the embeddings
VOCAB = 640


@pytest.fixture(params=FAMILIES)
def family(request):
    torch.manual_seed(0)
    make, *names = FAMILIES[request.param]
    return request.param, make(VOCAB), *names


def test_blocks_norm_and_linears_are_found(family):
    _, model, blocks_name, norm_name, leaves = family
    name, blocks = decoder_blocks(model)
    assert (name, len(blocks)) == (blocks_name, 3)
    assert final_norm(model) is model.get_submodule(norm_name)
    names = linear_names(model)
    assert {name.rpartition(".")[2] for name in names} == leaves
    assert all(name.startswith(f"{blocks_name}.") for name in names), "neither head nor embedding is among them"
    per_block = len([name for name in names if name.startswith(f"{blocks_name}.0.")])
    assert len(names) == 3 * per_block


def test_partial_unfreezes_the_top_block_the_norm_and_the_head(family):
    kind, model, blocks_name, norm_name, _ = family
    choose_trainable(model, MethodSection(kind="partial", top_blocks=1))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    head = {name for name, weight in model.named_parameters() if weight is model.get_output_embeddings().weight}
    assert (head == {"lm_head.weight"}) == (kind in UNTIED)
    tops = {name for name, _ in model.named_parameters() if name.startswith((f"{blocks_name}.2.", f"{norm_name}."))}
    assert trained == tops | head
    count = count_parameters(model)
    assert count.total == sum(weight.numel() for weight in set(model.parameters()))
    assert count.trainable == sum(weight.numel() for weight in set(model.parameters()) if weight.requires_grad)


@pytest.mark.parametrize("kind", ["lora", "partial"])
def test_each_family_trains(tmp_path, family, tiny_model, problem_files, kind):
    _, model, *_ = family
    folder = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    method = {"kind": kind, "top_blocks": 1} if kind == "partial" else {"kind": kind, "rank": 4}
    train = {"max_steps": 3, "micro_batch_size": 4, "checkpoint_steps": 2}
    run = prepare(tmp_path / "out", folder, problem_files, method=method, train=train, data={"max_length": 128})
    record = run.work()
    assert record.train.accumulation == 2
    assert run.losses[-1] < run.losses[0]
    names = linear_names(model)
    if kind == "lora":
        assert len(run.weights) == 2 * len(names)


@pytest.mark.parametrize("kind", FAMILIES)
def test_targets_are_known_by_name(kind):
    make, _, _, leaves = FAMILIES[kind]
    model = make(VOCAB)
    known = MethodSection(targets=sorted(leaves))
    assert not list(target_problems(model, known))
    (problem,) = target_problems(model, MethodSection(targets=["query", sorted(leaves)[0]]))
    assert problem.problem == "no linear of this model is called 'query'"
    assert all(leaf in problem.fix for leaf in leaves)
    (problem,) = target_problems(model, MethodSection(targets=["lm_head"]))
    assert "is the output head" in problem.problem


def test_more_blocks_than_there_are_and_nothing_at_all_are_refused():
    model = FAMILIES["qwen3"][0](VOCAB)
    (problem,) = method_problems(model, MethodSection(kind="partial", top_blocks=4))
    assert (problem.key, problem.fix) == ("method.top_blocks", "use at most 3")
    nothing = MethodSection(kind="partial", top_blocks=0, train_norm=False, train_head=False)
    (problem,) = method_problems(model, nothing)
    assert "would train nothing" in problem.problem
    assert method_problems(model, MethodSection(kind="partial", top_blocks=3)) == []


def test_a_model_without_blocks_is_named():
    class Flat(nn.Module):
        pass

    with pytest.raises(ModelError, match="Flat has no list of decoder blocks"):
        decoder_blocks(Flat())
