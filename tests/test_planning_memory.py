"""The estimate: weights counted as transformers and peft have them, bytes that grow and shrink as they must."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_dist.config.sections import MethodSection
from lora_dist.planning.choice import Hardware, choose_launch_config, fallback_of, fit_problems, under
from lora_dist.planning.memory import GIB, NF4_BITS, Setting, estimate, trained_parameters
from lora_dist.planning.shape import KNOWN, shape_of

SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
LLAMA_1B = {"model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
            "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "tie_word_embeddings": True}  # fmt: skip
LLAMA_8B = {**LLAMA_1B, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128,
            "tie_word_embeddings": False}  # fmt: skip


def setting(kind="lora", **more):
    return Setting(MethodSection(kind=kind), **more)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KNOWN)
def test_weights_are_counted_as_transformers_and_peft_have_them(kind, tied):
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from lora_dist.models.adapters import lora_config
    from lora_dist.models.methods import choose_trainable, count_parameters

    special = {"phi3": {"pad_token_id": 0}, "gemma": {"head_dim": 8}}.get(kind, {})
    config = AutoConfig.for_model(kind, **SMALL, tie_word_embeddings=tied, **special)
    shape = shape_of(config.to_dict())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        assert shape.parameters == count_parameters(model).total
        for method in (MethodSection(kind="partial", top_blocks=2), MethodSection(kind="full")):
            choose_trainable(model, method)
            assert trained_parameters(shape, method) == count_parameters(model).trainable
        method = MethodSection(rank=3)
        assert (
            trained_parameters(shape, method) == count_parameters(get_peft_model(model, lora_config(method))).trainable
        )


@pytest.mark.parametrize("kind", KNOWN)
def test_prefixes_and_scales_are_counted_as_peft_has_them(kind):
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from lora_dist.models.adapters import adapter_config
    from lora_dist.models.methods import choose_trainable, count_parameters

    special = {"phi3": {"pad_token_id": 0}, "gemma": {"head_dim": 16}}.get(kind, {})
    config = AutoConfig.for_model(kind, **SMALL, **special)
    shape = shape_of(config.to_dict())
    for settings in (
        {"kind": "prefix", "virtual_tokens": 7},
        {"kind": "prefix", "virtual_tokens": 7, "prefix_projection": True},
        {"kind": "ia3", "preserve_sparsity": True},  # inherited; it means nothing here
        {"kind": "ia3", "targets": ["o_proj", "mlp.down_proj"]},
    ):
        method = MethodSection(**settings)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            choose_trainable(model, method)
            adapted = get_peft_model(model, adapter_config(model, method))
        assert trained_parameters(shape, method) == count_parameters(adapted).trainable, settings
        bytes_here = estimate(shape, Setting(method))
        assert bytes_here.adapters == 4 * trained_parameters(shape, method)
        assert bytes_here.weights == 2 * shape.parameters
    few, many = (
        estimate(shape, Setting(MethodSection(kind="prefix", virtual_tokens=tokens), micro_batch_size=4))
        for tokens in (8, 80)
    )
    assert many.activations - few.activations == 4 * 72 * shape.prefix_width * 2


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "mlp.down_proj"]])
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_the_mask_that_keeps_zeros_is_counted_as_a_live_model_holds_it_whole_on_every_rank(kind, targets):
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from lora_dist.models.adapters import lora_config

    config = LlamaConfig(
        **SMALL | {"hidden_size": 36, "intermediate_size": 84, "head_dim": 8}
    )  # rows end within a byte
    plain, keeps = (MethodSection(kind=kind, targets=targets, preserve_sparsity=keeps) for keeps in (False, True))
    model = get_peft_model(LlamaForCausalLM(config), lora_config(keeps))
    held = [module.kept_bits for module in model.modules() if hasattr(module, "kept_bits")]
    assert len(held) == 3 * (7 if targets == "all-linear" else 2)
    mask = sum(bits.numel() * bits.element_size() for bits in held)
    shape = shape_of(config.to_dict())
    for strategy in ("plain", "ddp", "zero3"):
        before, after = (estimate(shape, Setting(method, strategy, 4)) for method in (plain, keeps))
        assert after.adapters - before.adapters == mask, strategy
        assert replace(after, adapters=0, overhead=0) == replace(before, adapters=0, overhead=0)


def test_known_sizes():
    assert shape_of(LLAMA_1B).parameters == 1_235_814_400
    assert shape_of(LLAMA_8B).parameters == 8_030_261_248
    assert shape_of({"model_type": "mamba"}) is None


def test_full_fine_tuning_takes_sixteen_bytes_per_parameter():
    shape = shape_of(LLAMA_8B)
    for strategy in ("plain", "ddp", "zero1"):
        found = estimate(shape, setting("full", strategy=strategy))
        assert found.weights + found.gradients + found.optimizer == 16 * shape.parameters
    small = estimate(shape, setting("qlora"))
    assert small.weights == pytest.approx(
        32 * shape.block_linears * NF4_BITS / 8 + 2 * (shape.parameters - 32 * shape.block_linears), abs=1
    )
    assert 5 * GIB < small.weights < 6 * GIB  # published peaks of 8B QLoRA runs begin at 6 to 7 GiB


def test_a_head_tied_to_the_embedding_takes_the_backward_pass_through_all_blocks():
    one = setting("partial", micro_batch_size=8)
    without = replace(one, method=MethodSection(kind="partial", train_head=False))
    tied, own = (shape_of(LLAMA_1B | {"tie_word_embeddings": tied}) for tied in (True, False))
    assert estimate(tied, one).activations == 8 * estimate(tied, without).activations, "16 blocks; 2 are trained"
    assert estimate(own, one).activations == estimate(own, without).activations == estimate(tied, without).activations


@pytest.mark.parametrize(
    ("kind", "checkpointing", "measured_gib"),
    [("lora", False, 20.15), ("lora", True, 4.65), ("qlora", False, 16.55), ("partial", False, 20.71)],
)
def test_the_estimate_is_near_what_an_h100_took(kind, checkpointing, measured_gib):
    """Peak allocated bytes of docs/benchmarks.md (2026-11-27): Llama-3.2-1B's shape, 8 x 1,024 packed tokens."""
    found = estimate(shape_of(LLAMA_1B), setting(kind, micro_batch_size=8, checkpointing=checkpointing))
    assert (found.total - found.overhead) / GIB == pytest.approx(measured_gib, rel=0.08)


@given(
    kind=st.sampled_from(["lora", "qlora", "full", "partial"]),
    strategy=st.sampled_from(["plain", "ddp", "zero1", "zero2", "zero3"]),
    micro=st.integers(1, 16), length=st.integers(16, 4096), rank=st.integers(1, 128), on_gpu=st.booleans(),
)  # fmt: skip
def test_more_never_takes_less(kind, strategy, micro, length, rank, on_gpu):
    shape = shape_of(LLAMA_1B)
    method = MethodSection(kind=kind, rank=rank)
    one = Setting(method, strategy, 4, micro_batch_size=micro, length=length, on_gpu=on_gpu)
    for more in (
        replace(one, micro_batch_size=micro + 1), replace(one, length=length + 1),
        replace(one, method=method.model_copy(update={"rank": rank + 1})),
    ):  # fmt: skip
        assert estimate(shape, more).total >= estimate(shape, one).total
    assert estimate(shape, replace(one, checkpointing=True)).activations <= 2 * estimate(shape, one).activations


@given(ranks=st.sampled_from([2, 4, 8]), kind=st.sampled_from(["full", "partial", "lora"]))
def test_zero_shares_out_what_it_says_and_nothing_else(ranks, kind):
    shape = shape_of(LLAMA_1B)
    whole = estimate(shape, setting(kind, strategy="zero1", world_size=1))
    shared = {"zero1": {"optimizer"}, "zero2": {"optimizer", "gradients"},
              "zero3": {"optimizer", "gradients", "weights", "adapters"}}  # fmt: skip
    for strategy, terms in shared.items():
        found = estimate(shape, setting(kind, strategy=strategy, world_size=ranks))
        for term in ("weights", "adapters", "gradients", "optimizer"):
            expected = getattr(whole, term) / (ranks if term in terms else 1)
            assert getattr(found, term) == pytest.approx(expected, abs=1), (strategy, term)


def test_auto_picks_the_fastest_that_fits():
    shape = shape_of(LLAMA_8B)
    gpus = Hardware(8, 80 * GIB)
    chosen = {kind: choose_launch_config(shape, setting(kind), gpus).config for kind in ("lora", "qlora", "full")}
    assert chosen == {"lora": "ddp", "qlora": "ddp", "full": "zero2"}
    for config in ("zero2", "zero3"):
        assert estimate(shape, under(config, setting("full"), 8)).total < estimate(shape, setting("full")).total
    assert choose_launch_config(shape, setting("full"), Hardware(8, 32 * GIB)).config == "zero3"
    assert choose_launch_config(shape, setting("full"), Hardware(8, 80 * GIB, nodes=2)).config == "multinode_zero2"
    assert choose_launch_config(shape, setting("qlora"), Hardware(8, 4 * GIB)).config == "ddp", "never ZeRO-3"
    assert choose_launch_config(shape, setting("lora"), Hardware(1, 80 * GIB)).config == "single_gpu"
    assert choose_launch_config(shape, setting("lora"), Hardware(0)).config == "cpu_ddp"
    assert choose_launch_config(None, setting("lora"), Hardware(2, GIB)).config == "ddp"


def test_qlora_takes_over_only_where_it_helps():
    shape, one = shape_of(LLAMA_8B), setting("lora")
    assert fallback_of(shape, one, 80 * GIB) is None
    taken = fallback_of(shape, one, 20 * GIB)
    assert taken.method.kind == "qlora"
    assert "takes about" in taken.why
    assert not list(fit_problems(shape, one, 20 * GIB))
    (problem,) = fit_problems(shape, one, 9 * GIB)
    assert problem.key == "method.kind"
    assert "9.0 GiB" in problem.problem
    strict = replace(one, method=MethodSection(fallback="error"))
    assert fallback_of(shape, strict, 20 * GIB) is None
    (problem,) = fit_problems(shape, strict, 20 * GIB)
    assert "method.kind=qlora" in problem.fix


def test_no_config_is_chosen_under_which_a_run_is_refused():
    shape, small = shape_of(LLAMA_8B), Hardware(8, GIB)  # nothing fits: the last of the ladder is taken
    full = setting("full")
    assert choose_launch_config(shape, full, small).config == "zero3_offload"
    assert choose_launch_config(shape, full, small, validates=True).config == "zero2_offload"
    assert choose_launch_config(shape, full, small, task="classification").config == "ddp"
