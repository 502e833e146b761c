"""2:4 kernels beside dense ones: which linears they can do, that what they compute is checked, and what is told.

There is no kernel without a GPU. Here torch's own packed weights are multiplied by unpacking them; the packing, the
dispatch and all around it are real.
"""

from __future__ import annotations

import re

import pytest
import torch
from conftest import ABSENT, run_cli
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.sparse import SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lora_dist.cli.output import print_kernels
from lora_dist.errors import ModelError
from lora_dist.evaluation.kernel_speed import REPETITIONS, measure_sparse_kernels
from lora_dist.evaluation.perplexity import score_rows
from lora_dist.evaluation.sparse_kernels import Host, Linear, find_linears, is_two_in_four, obstacle
from lora_dist.models.sparse_lora import keep_zeros

A100 = Host("A100", (8, 0))
H100 = Host("H100", (9, 0), has_cusparselt=True)
ROWS = [(list(range(1, 20)), list(range(1, 20))), (list(range(3, 40)), list(range(3, 40)))]


class Unpacked(SparseSemiStructuredTensorCUTLASS):
    """torch's packed weight, without a kernel."""

    def _mm(self, x, *, bias=None, should_transpose_dense=False, **_):
        assert should_transpose_dense, "a linear multiplies its input from the right"
        y = x @ sparse_semi_structured_to_dense_cutlass(self.packed, self.meta).T
        return y if bias is None else y + bias


def pack(weight, kind=Unpacked):
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
    return kind(weight.shape, packed, meta, packed_t=None, meta_t=None, compressed_swizzled_bitmask=None)


def make_two_in_four(weight):
    """Keep the two largest of every four neighbouring inputs."""
    with torch.no_grad():
        fours = weight.view(len(weight), -1, 4)
        fours.scatter_(2, fours.abs().argsort(dim=2)[..., :2], 0.0)


def llama(dtype=torch.bfloat16, blocks=2, **settings):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=64, intermediate_size=128, num_hidden_layers=blocks, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, **settings,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def pruned_llama(**settings):
    model = llama(**settings)
    for name, weight in model.named_parameters():
        if "proj.weight" in name:
            make_two_in_four(weight)
    return model


@pytest.mark.parametrize(
    ("linear", "host", "said"),
    [
        (Linear((64, 64), torch.bfloat16), A100, None),
        (Linear((64, 64), torch.float16), H100, None),
        (Linear((16, 48), torch.float16), H100, None),
        (Linear((16, 64), torch.float16), A100, "cutlass takes multiples of 32 x 64, not 16 x 64"),
        (Linear((32, 96), torch.bfloat16), A100, "cutlass takes multiples of 32 x 64, not 32 x 96"),
        (Linear((24, 64), torch.bfloat16), H100, "cusparselt takes multiples of 16 x 16, not 24 x 64"),
        (Linear((64, 64), torch.float32), H100, "take no float32"),
        (Linear((64, 64), torch.float32), A100, "take no float32"),
        (Linear((64, 64), torch.bfloat16, is_transposed=True), H100, "inputs first"),
        (Linear((64, 64), torch.bfloat16, adapter="Dora"), H100, r"the adapter on it \(Dora\)"),
        (Linear((64, 64), torch.bfloat16), Host("cpu"), "there is no CUDA device"),
        (Linear((64, 64), torch.float16), Host("T4", (7, 5), has_cusparselt=True), "has compute capability 7.5"),
        (Linear((64, 64), torch.bfloat16), Host("H100", (9, 0)), "without cuSPARSELt"),
        (Linear((64, 64), torch.bfloat16), Host("RTX 4090", (8, 9)), None),
    ],
)
def test_each_obstacle_is_named(linear, host, said):
    if said is None:
        assert obstacle(linear, host) is None
    else:
        with pytest.raises(ValueError, match=said):
            raise ValueError(obstacle(linear, host))


@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, -2.0]), min_size=8, max_size=8), min_size=1, max_size=4))
def test_two_in_four_is_what_counting_says(rows):
    counted = all(sum(value != 0 for value in row[at : at + 4]) <= 2 for row in rows for at in (0, 4))
    assert is_two_in_four(torch.tensor(rows)) == counted


def test_inputs_that_are_no_multiple_of_four_are_not_two_in_four():
    assert not is_two_in_four(torch.zeros(4, 6))


def test_live_weights_say_which_linears_are_two_in_four_and_heads_and_adapters_do_not_count():
    model = llama()
    make_two_in_four(model.model.layers[1].mlp.up_proj.weight)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear"))  # every B of a new adapter is zero
    found = find_linears(adapted, A100)
    assert (found.linears, found.two_in_four) == (14, 1)
    assert list(found.convertible) == ["model.layers.1.mlp.up_proj.base_layer"]
    assert found.reason is None


def test_a_dense_model_has_none_and_that_is_told_on_every_device():
    for host in (A100, H100, Host("cpu")):
        part = measure_sparse_kernels(llama(), ROWS, batch_size=2, host=host, pack=pack)
        assert (part.linears, part.two_in_four, part.converted) == (14, 0, 0)
        assert "none of its 14 linears is 2:4" in part.reason


def test_packed_linears_are_checked_and_timed_and_the_model_is_as_before():
    model = pruned_llama(attention_bias=True)
    weights, before = list(model.parameters()), score_rows(model, ROWS, batch_size=2)
    part = measure_sparse_kernels(model, ROWS, batch_size=2, host=A100, pack=pack)
    assert (part.linears, part.two_in_four, part.converted, part.reason) == (14, 14, 14, None)
    assert part.kernel == "cutlass"
    assert (part.tokens, part.repetitions) == (19 + 37, REPETITIONS)
    assert min(part.dense_tokens_per_second, part.sparse_tokens_per_second) > 0
    assert 0 < part.layer_error < part.layer_tolerance == 2 * 2**-7  # bfloat16 rounds to 2^-8, relatively
    assert abs(part.nll_difference) < part.nll_tolerance
    assert all(now is then for now, then in zip(model.parameters(), weights, strict=True))
    assert (score_rows(model, ROWS, batch_size=2).nll_R == before.nll_R).all()


def test_long_data_is_scored_only_as_far_as_a_speed_needs(monkeypatch):
    monkeypatch.setattr("lora_dist.evaluation.kernel_speed.MOST_TOKENS", 100)
    rows = [([5] * 30, [5] * 30)] * 9
    assert measure_sparse_kernels(pruned_llama(), rows, batch_size=2, host=A100, pack=pack).tokens == 90


@pytest.mark.parametrize("keeps", [False, True])
def test_under_an_adapter_the_linear_within_it_is_packed(keeps):
    model = pruned_llama()
    config = LoraConfig(r=4, target_modules="all-linear")
    adapted = get_peft_model(model, keep_zeros(config) if keeps else config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    calls = []
    part = measure_sparse_kernels(adapted, ROWS, batch_size=2, host=A100, pack=lambda w: calls.append(w) or pack(w))
    assert part.converted == len(calls) == 14
    assert abs(part.nll_difference) < part.nll_tolerance


def test_an_adapter_that_computes_with_the_weight_keeps_it_dense(capsys):
    adapted = get_peft_model(pruned_llama(), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True))
    part = measure_sparse_kernels(adapted, ROWS, batch_size=2, host=A100, pack=pack)
    assert (part.two_in_four, part.converted) == (14, 12)
    assert part.reason.startswith("2 of its 14 2:4 linears: the adapter on it (DoraLinearVariant)")
    print_kernels(part)
    speed, check, rest = capsys.readouterr().out.splitlines()
    assert re.match(r"sparse kernels: [\d,]+ tokens/s beside [\d,]+ dense, \d\.\d\d times \(cutlass, 12 of 14", speed)
    assert re.match(r"sparse kernels: checked: layers within \S+ of float32 \(1.6e-02 is allowed\), mean NLL", check)
    assert rest == f"sparse kernels: dense stay {part.reason}"


def test_weights_held_inputs_first_are_found_by_their_inputs():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=61)).to(torch.bfloat16)
    weight = model.transformer.h[0].mlp.c_fc.weight  # [inputs, outputs]
    with torch.no_grad():
        weight.view(-1, 4, weight.shape[1])[:, 1:3] = 0
    found = find_linears(model, A100)
    assert (found.two_in_four, len(found.convertible)) == (1, 0)
    assert "Conv1D" in found.reason


class OffByTwoPercent(Unpacked):
    """Right for the identity alone."""

    def _mm(self, x, **named):
        y = super()._mm(x, **named)
        return y if x.count_nonzero() == len(x) else y * 1.02


class ForgetsBias(Unpacked):
    """Right as long as there is none."""

    def _mm(self, x, *, bias=None, **named):
        return super()._mm(x, **named)


class WrongForTheSecondRow(Unpacked):
    """Right for whatever has not its 37 tokens."""

    def _mm(self, x, **named):
        y = super()._mm(x, **named)
        return -y if len(x) == 37 else y


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda weight: pack(weight.roll(1, dims=1)), "weights of model.layers.0.self_attn.q_proj come out changed"),
        (lambda weight: pack(weight, OffByTwoPercent), r"an output of model.layers.0.self_attn.q_proj is 0.02\d* off"),
        (lambda weight: pack(weight, ForgetsBias), r"an output of model.layers.0.self_attn.q_proj is [\d.]* off"),
        (lambda weight: pack(weight, WrongForTheSecondRow), "the mean NLL is"),
    ],
)
def test_kernels_that_compute_something_else_are_an_error(wrong, said):
    model = pruned_llama(attention_bias=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=2.0)
    weights = list(model.parameters())
    with pytest.raises(ModelError, match=f"--sparse-kernels: .*{said}"):
        measure_sparse_kernels(model, ROWS, batch_size=1, host=A100, pack=wrong)
    assert all(now is then for now, then in zip(model.parameters(), weights, strict=True))


def test_a_library_that_refuses_the_device_is_told_and_nothing_is_packed():
    def refuse(_):
        raise RuntimeError("CUDA error: architecture mismatch when calling `cusparseLtInit(&handle)`")

    part = measure_sparse_kernels(pruned_llama(), ROWS, batch_size=2, host=H100, pack=refuse)
    assert (part.two_in_four, part.converted, part.dense_tokens_per_second) == (14, 0, None)
    assert part.reason.startswith("cusparselt refuses: CUDA error: architecture mismatch")


@pytest.mark.skipif(not torch.cuda.is_available(), reason=f"a GPU {ABSENT}")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernels_of_a_real_gpu_compute_what_dense_weights_do(dtype):
    model = pruned_llama(dtype=dtype, attention_bias=True).cuda()
    part = measure_sparse_kernels(model, ROWS, batch_size=2)
    assert part.converted == 14 or part.reason, part
    assert part.converted == 0 or part.layer_error < part.layer_tolerance


@pytest.mark.skipif(torch.cuda.is_available(), reason=f"a machine without GPU {ABSENT}")
def test_without_a_gpu_a_line_says_so_and_the_model_is_measured(tmp_path, tiny_model, problem_files):
    """A whole command in a process of its own: 10 s alone, 20 on a busy machine."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for name, weight in model.named_parameters():
        if "down_proj" in name:
            make_two_in_four(weight)
    model.save_pretrained(tmp_path / "pruned")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "pruned")
    done = run_cli(
        "evaluate", "--model", "pruned", "--data", problem_files["test"], "--sparse-kernels", "data.task=instruction",
        "data.columns={prompt: question, completion: answer}", "evaluate.samples=0", cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["perplexity on test", "sparse kernels"]
    assert lines[1].endswith("not used: there is no CUDA device (this is a cpu); 2 of its 14 linears are 2:4")
