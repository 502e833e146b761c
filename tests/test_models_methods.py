"""What each method trains and leaves alone, counted and compared weight by weight."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from training_cases import one_thread as one_thread
from training_cases import prepare
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_dist.config.sections import MethodSection
from lora_dist.errors import LoraDistError
from lora_dist.models.adapters import check_saved_adapter, lora_config
from lora_dist.models.methods import quantization_config

HIDDEN, KEYS, MLP, VOCAB, BLOCKS = 64, 32, 128, 640, 2  # of the tiny model
LINEARS = {
    "q_proj": (HIDDEN, HIDDEN), "k_proj": (HIDDEN, KEYS), "v_proj": (HIDDEN, KEYS), "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (HIDDEN, MLP), "up_proj": (HIDDEN, MLP), "down_proj": (MLP, HIDDEN),
}  # fmt: skip
BLOCK = sum(inner * outer for inner, outer in LINEARS.values()) + 2 * HIDDEN


@pytest.fixture
def train(tmp_path, tiny_model, problem_files):
    """Train three steps with a method, and return the run."""

    def run(kind, **settings):
        method = {"kind": kind, **settings}
        case = prepare(tmp_path, tiny_model, problem_files, method=method, train={"max_steps": 3})
        case.train()
        return case

    return run


@pytest.fixture
def before(tiny_model):
    """The pretrained weights by name."""
    weights = load_file(tiny_model / "model.safetensors")
    config = json.loads((tiny_model / "config.json").read_text())
    assert [config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")] == [HIDDEN, MLP, BLOCKS]
    assert not config["tie_word_embeddings"]
    return weights


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


HEAD = "lm_head.weight"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"top_blocks": 1}, ("model.layers.1.", "model.norm.", HEAD)),
        ({"top_blocks": 2, "train_head": False}, ("model.layers.", "model.norm.")),
        ({"top_blocks": 1, "train_norm": False, "train_head": False}, ("model.layers.1.",)),
        ({"top_blocks": 0, "train_head": False}, ("model.norm.",)),
        ({"top_blocks": 0, "train_norm": False}, (HEAD,)),
    ],
)
def test_partial_trains_the_top_blocks_the_norm_and_the_head_and_nothing_else(train, before, settings, expected):
    run = train("partial", **settings)
    names = {name for name in before if name.startswith(expected)}
    assert changed(before, run.weights) == names
    assert run.summary["model"]["parameters_trainable"] == sum(before[name].numel() for name in names)
    assert run.summary["model"]["parameters_total"] == sum(weight.numel() for weight in before.values())


def test_full_changes_every_weight(train, before):
    run = train("full")
    assert changed(before, run.weights) == set(before)
    total = 2 * VOCAB * HIDDEN + BLOCKS * BLOCK + HIDDEN  # embeddings and head, blocks, norm
    assert run.summary["model"]["parameters_trainable"] == run.summary["model"]["parameters_total"] == total


@pytest.mark.parametrize("train_head", [True, False])
def test_a_head_that_is_tied_takes_its_embeddings_with_it(tmp_path, tiny_model, problem_files, train_head):
    tied = AutoModelForCausalLM.from_pretrained(tiny_model)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    tied.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "tied")
    before = load_file(tmp_path / "tied" / "model.safetensors")
    assert HEAD not in before
    method = {"kind": "partial", "top_blocks": 1, "train_head": train_head}
    run = prepare(tmp_path / "out", tmp_path / "tied", problem_files, method=method, train={"max_steps": 2})
    record = run.work()
    names = {name for name in before if name.startswith(("model.layers.1.", "model.norm."))}
    names |= {"model.embed_tokens.weight"} if train_head else set()
    assert changed(before, run.weights) == names
    assert record.model.parameters_trainable == BLOCK + HIDDEN + VOCAB * HIDDEN * train_head
    assert record.model.parameters_total == VOCAB * HIDDEN + BLOCKS * BLOCK + HIDDEN, "tied weights are one"


@pytest.mark.parametrize(
    ("settings", "per_block"),
    [
        ({}, lambda rank: rank * sum(inner + outer for inner, outer in LINEARS.values())),
        ({"targets": ["q_proj", "v_proj"]}, lambda rank: rank * (HIDDEN + HIDDEN + HIDDEN + KEYS)),
        ({"targets": ["layers.1.mlp.up_proj"]}, lambda rank: rank * (HIDDEN + MLP) / BLOCKS),
        ({"dora": True}, lambda rank: sum(rank * (inner + outer) + outer for inner, outer in LINEARS.values())),
    ],
)
@pytest.mark.parametrize("rank", [4, 16])
def test_lora_trains_rank_times_in_plus_out_of_each_linear(train, before, settings, per_block, rank):
    run = train("lora", rank=rank, **settings)
    adapters = int(BLOCKS * per_block(rank))
    assert run.summary["model"]["parameters_trainable"] == adapters
    assert run.summary["model"]["parameters_total"] == sum(weight.numel() for weight in before.values()) + adapters
    assert sum(weight.numel() for weight in run.weights.values()) == adapters
    assert not any("lm_head" in name or "embed" in name for name in run.weights)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_the_saved_adapter_opens_with_plain_peft_and_holds_no_base_weight(train, tiny_model, kind):
    run = train(kind)
    assert all("lora_" in name and weight.dtype == torch.float32 for name, weight in run.weights.items())
    base = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        plain = base(ids).logits
        model = PeftModel.from_pretrained(base, run.folder.model)
        assert (model(ids).logits - plain).abs().max() > 1e-3, "it says something"
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, plain), "and the base is still the base"


def test_lora_leaves_the_base_as_it_was(train, before, tiny_model):
    train("lora")
    assert changed(before, load_file(tiny_model / "model.safetensors")) == set()


@pytest.mark.parametrize("double", [True, False])
def test_qlora_holds_what_its_record_says(train, tiny_model, double):
    run = train("qlora", double_quantization=double)
    model = run.summary["model"]
    weights = BLOCKS * sum(inner * outer for inner, outer in LINEARS.values())
    assert model["quantization"] == {
        "kind": "nf4",
        "double_quantization": double,
        "linears_4bit": BLOCKS * len(LINEARS),
        "parameters_4bit": weights,
        "bytes_4bit": weights // 2,
        "storage_dtype": "uint8",
        "compute_dtype": "float32",
    }
    assert model["trainable_dtype"] == "float32"
    assert model["parameters_trainable"] == 16 * BLOCKS * sum(map(sum, LINEARS.values()))
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert model["parameters_total"] == base.num_parameters() + model["parameters_trainable"], "4-bit ones unpacked"


def test_a_bfloat16_base_stays_bfloat16_under_an_adapter(tmp_path, tiny_model, problem_files):
    for kind in ("lora", "qlora"):
        run = prepare(
            tmp_path, tiny_model, problem_files, method={"kind": kind}, model={"dtype": "bfloat16"}, name=kind,
            train={"max_steps": 2},
        )  # fmt: skip
        run.train()
        assert run.summary["model"]["dtype"] == "bfloat16", "a base in float32 would take twice its memory"
        assert run.summary["model"]["trainable_dtype"] == "float32"


def test_settings_reach_pefts_config(train):
    given = {"rank": 6, "alpha": 9.0, "dropout": 0.25, "rslora": True, "dora": True, "targets": ["down_proj"]}
    saved = LoraConfig.from_pretrained(train("lora", **given).folder.model)
    assert (saved.r, saved.lora_alpha, saved.lora_dropout) == (6, 9.0, 0.25)
    assert (saved.use_rslora, saved.use_dora, set(saved.target_modules)) == (True, True, {"down_proj"})
    plain = lora_config(MethodSection())
    assert (plain.use_rslora, plain.use_dora, plain.bias, plain.task_type) == (False, False, "none", "CAUSAL_LM")


def test_only_qlora_is_quantised():
    assert quantization_config(MethodSection(kind="lora"), torch.float32) is None
    config = quantization_config(MethodSection(kind="qlora"), torch.bfloat16)
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    assert (config.bnb_4bit_use_double_quant, config.bnb_4bit_compute_dtype) == (True, torch.bfloat16)


A, B = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "x.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({A: torch.ones(2, 3), B: torch.ones(0)}, f"is empty at {B}"),
        ({A: torch.ones(0), B: torch.ones(3, 2)}, f"is empty at {A}"),
        ({A: torch.ones(2, 3), B: torch.zeros(3, 2)}, "changes nothing"),
        ({A: torch.ones(2, 3)}, "changes nothing"),
        ({A: torch.ones(2, 3), B: torch.full((3, 2), float("nan"))}, f"is not finite at {B}"),
    ],
)
def test_an_adapter_that_was_not_saved_as_it_was_trained_is_noticed(tmp_path, tensors, problem):
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(LoraDistError, match=problem):
        check_saved_adapter(tmp_path)


def test_one_lora_b_that_moved_is_an_update(tmp_path):
    tensors = {A: torch.ones(2, 3), B: torch.zeros(3, 2), f"y{B}": torch.eye(3, 2)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    check_saved_adapter(tmp_path)
