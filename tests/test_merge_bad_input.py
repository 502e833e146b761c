"""Adapters and bases that cannot be merged: each is refused in one line, with code 2, and nothing is written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import tree
from merging_cases import adapter_on
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lora_dist.cli.app import app
from lora_dist.cli.exits import run_to_exit
from lora_dist.config.sections import ModelSection
from lora_dist.models.adapter_folder import CONFIG, WEIGHTS
from lora_dist.models.fingerprint import fingerprint_of
from lora_dist.models.provenance import FILE, Base, Provenance

FIRST = "base_model.model.model.layers.0.self_attn.q_proj"


class Place:
    """A folder with a base and two plain adapters of it, to be spoilt."""

    def __init__(self, path: Path, model: Path) -> None:
        self.path, self.base = path, path / "base"
        shutil.copytree(model, self.base)
        self.a = adapter_on(self.base, path / "a", seed=1)
        self.b = adapter_on(self.base, path / "b", seed=2)

    def config(self, **changes) -> None:
        self.a.joinpath(CONFIG).write_text(json.dumps(json.loads((self.a / CONFIG).read_text()) | changes))

    def weights(self, change) -> None:
        tensors = load_file(self.a / WEIGHTS)
        change(tensors)
        save_file(tensors, self.a / WEIGHTS)

    def told(self, folder: Path, fingerprint: str) -> None:
        Provenance(
            base=Base(path=str(self.base), fingerprint=fingerprint), method={"kind": "lora"}, task="instruction",
            data="x", run_id="lora-1", arm="lora", label="lora", seed=0,
        ).write(folder)  # fmt: skip

    def other_base(self, **changes) -> None:
        config = AutoConfig.from_pretrained(self.base, **changes)
        torch.manual_seed(9)
        AutoModelForCausalLM.from_config(config).save_pretrained(self.path / "other", max_shard_size="300KB")
        AutoTokenizer.from_pretrained(self.base).save_pretrained(self.path / "other")


@pytest.fixture
def place(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, tiny_model)


@pytest.fixture
def refused(place, monkeypatch, capfd):
    """`lora-dist adapter merge WORDS` is refused in this line, and leaves no trace."""

    def do(*words: str, into: str = "merged", tells: tuple[str, ...]) -> str:
        before = tree(place.path)
        monkeypatch.setattr(sys, "argv", ["lora-dist", "adapter", "merge", *words, "--into", into])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_to_exit(app)
        told = capfd.readouterr()
        assert ended.value.code == 2, told.err
        lines = [line for line in told.err.splitlines() if line.startswith("lora-dist: ")]
        assert len(lines) == 1, told.err
        assert "Traceback" not in told.err
        for text in tells:
            assert text in lines[0]
        assert tree(place.path) == before
        return lines[0]

    return do


def test_the_place_is_fine_as_it_is(place, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["lora-dist", "adapter", "merge", "a", "b", "--into", "merged"])
    with pytest.raises(SystemExit) as ended:
        run_to_exit(app)
    assert ended.value.code == 0, capfd.readouterr().err


def test_an_adapter_of_other_weights(place, refused):
    place.other_base()
    place.told(place.a, fingerprint_of(ModelSection(path=str(place.base))))
    refused(
        "a", "--base", "other", tells=("lora-dist: a: was trained on other weights than those of 'other'", "--force")
    )
    place.told(place.b, "0" * 64)
    refused("a", "b", tells=("lora-dist: b: was trained on other weights",))


def test_an_adapter_of_other_shapes_also_with_force(place, refused):
    place.other_base(hidden_size=32, intermediate_size=64)
    place.told(place.a, "0" * 64)
    tells = ("lora-dist: a: does not fit 'other'", "and its update [", "give the base that it was trained on")
    refused("a", "--base", "other", "--force", tells=tells)


def test_factors_of_unequal_ranks(place, refused):
    adapter_on(place.base, place.path / "c", r=8)
    refused("a", "c", tells=("--method: linear adds up factors", "ranks 4, 8", "use weighted"))


TRICKS = ("../../x/y", "owner/../x", "../x", "x/..", "a/b\nc", "/nowhere/x", "~nobody/x", "x", "owner/--x")


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_that_is_no_adapter(refused, name):
    refused(name, tells=("lora-dist: " + " ".join(name.split()), "hub id"))


@pytest.mark.parametrize("name", TRICKS)
def test_a_name_that_is_no_base(refused, name):
    refused("a", "--base", name, tells=("lora-dist: --base: '" + " ".join(name.split()),))


def test_an_adapter_that_names_no_base_or_one_that_is_not_there(place, refused):
    for named in ("/nowhere/x", None, "../base/../nowhere", "a\x00b"):
        place.config(base_model_name_or_path=named)
        refused("a", tells=("lora-dist: a: ", "name its base (--base)"))


@pytest.mark.parametrize("file", ["../a/adapter_model.safetensors", "/etc/passwd", "..", "x/model.safetensors", 7])
def test_an_index_that_names_files_elsewhere(place, refused, file):
    (place.base / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": file}}
    (place.base / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("a", tells=("lora-dist: --base: ", "model.safetensors.index.json"))


def test_a_truncated_adapter(place, refused):
    data = (place.a / WEIGHTS).read_bytes()
    for length in (0, 5, 100, len(data) - 10):
        (place.a / WEIGHTS).write_bytes(data[:length])
        refused("a", tells=(str(place.a / WEIGHTS), "is damaged", "copy or download it again"))
    (place.a / WEIGHTS).unlink()
    refused("a", tells=(WEIGHTS, "is not there"))


def test_a_truncated_shard_of_the_base(place, refused):
    place.other_base()
    shard = sorted((place.path / "other").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    refused("a", "--base", "other", tells=("--base: 'other' has a damaged " + shard.name, "copy it again"))
    shard.unlink()
    refused("a", "--base", "other", tells=("--base: 'other' lacks " + shard.name, "copy it again"))


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"r": 4}'])
def test_a_damaged_config(place, refused, text):
    (place.a / CONFIG).write_text(text)
    refused("a", tells=(CONFIG, "is damaged", "copy the adapter's folder again"))


ODD_CONFIGS = {
    "another kind": ({"peft_type": "OFT"}, "is a OFT adapter"),
    "rank of words": ({"r": "four"}, "is damaged"),
    "no alpha": ({"lora_alpha": None}, "is damaged"),
    "endless alpha": ({"lora_alpha": float("inf")}, "is damaged"),
    "odd pattern": ({"rank_pattern": {"q_proj": "x"}}, "is damaged"),
    "pattern of another shape": ({"alpha_pattern": [1]}, "is damaged"),
    "targets that are no pattern": ({"target_modules": "(q_proj"}, "damaged"),
    "another rank": ({"r": 8}, "its config says 8"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "biases": ({"bias": "all"}, "bias: all"),
    "activated LoRA": ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "which changes the base"),
    "DoRA without magnitudes": ({"use_dora": True}, "lacks a DoRA magnitude"),
    "fewer targets": ({"target_modules": ["k_proj"]}, "none of the target_modules"),
    "other targets": ({"target_modules": ["lm_head", "q_proj", "k_proj"]}, "lacks the factors of lm_head"),
}


@pytest.mark.parametrize(("changes", "told"), ODD_CONFIGS.values(), ids=ODD_CONFIGS)
def test_a_config_that_does_not_describe_the_factors(place, refused, changes, told):
    place.config(**changes)
    refused("a", tells=(told,))


def spoil(key: str, value):
    return lambda tensors: tensors.update({key: value})


A, B = f"{FIRST}.lora_A.weight", f"{FIRST}.lora_B.weight"
ODD_FACTORS = {
    "NaN": (lambda tensors: tensors[A].fill_(float("nan")), "is not finite at"),
    "infinity": (lambda tensors: tensors[B].view(-1)[3].fill_(float("inf")), "is not finite at"),
    "odd name": (spoil("base_model.model.x/../y.lora_A.weight", torch.ones(4, 4)), "which is no factor of a linear"),
    "embedding": (spoil("base_model.model.model.embed_tokens.lora_embedding_A", torch.ones(4, 4)), "no factor of a"),
    "whole weight": (spoil("base_model.model.lm_head.weight", torch.ones(4, 4)), "which is no factor of a linear"),
    "unknown linear": (
        lambda tensors: [tensors.update({key.replace("q_proj", "x"): tensors[key].clone()}) for key in (A, B)],
        "there is no linear",
    ),
    "lost A": (lambda tensors: tensors.pop(A), "lacks lora_A or lora_B of"),
    "lost linear": (lambda tensors: (tensors.pop(A), tensors.pop(B)), "lacks the factors of model.layers.0.self_attn"),
    "flat": (spoil(A, torch.ones(64)), "has factors"),
    "unequal": (spoil(A, torch.ones(3, 64)), "has factors"),
    "empty": (lambda tensors: tensors.update({A: torch.ones(0, 64), B: torch.ones(64, 0)}), "has factors"),
    "wide": (spoil(A, torch.ones(4, 65)), "does not fit"),
    "higher rank": (lambda tensors: tensors.update({A: torch.ones(5, 64), B: torch.ones(64, 5)}), "of rank 5"),
    "nothing": (lambda tensors: tensors.clear(), "is empty"),
    "magnitude": (spoil(f"{FIRST}.lora_magnitude_vector", torch.ones(64)), "has a DoRA magnitude"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "told"), ODD_FACTORS.values(), ids=ODD_FACTORS)
def test_factors_that_are_none(place, refused, change, told):
    place.weights(change)
    refused("a", tells=(told,))


def test_a_base_that_is_stored_quantised(place, refused):
    config = json.loads((place.base / "config.json").read_text())
    four_bit = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (place.base / "config.json").write_text(json.dumps(config | {"quantization_config": four_bit}))
    refused("a", tells=("--base: ", "is stored quantised", "give the 16-bit base"))


def test_a_linear_that_is_stored_in_8_bit(place, refused):
    tensors = load_file(place.base / "model.safetensors")
    name = FIRST.removeprefix("base_model.model.") + ".weight"
    save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, place.base / "model.safetensors")
    refused("a", tells=("--base: ", "F8_E4M3", "give the 16-bit base"))


def test_dora_is_added_to_nothing(place, refused):
    adapter_on(place.base, place.path / "d", use_dora=True)
    refused("a", "d", tells=("lora-dist: d: is a DoRA adapter", "merge it alone"))
    refused("d", "--weights", "0.5", tells=("lora-dist: d: is a DoRA adapter", "merge it alone"))
    refused("d", "--method", "ties", tells=("lora-dist: d: is a DoRA adapter", "merge it alone"))


def test_a_weight_that_is_another_one_s_twin(place, refused):
    place.other_base(tie_word_embeddings=True)
    tied = adapter_on(place.path / "other", place.path / "head", target_modules=["lm_head"])
    refused("head", tells=("holds 'base_model.model.lm_head.base_layer.weight'", "merge it with peft"))
    tensors = load_file(tied / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if "base_layer" not in name}, tied / WEIGHTS)
    refused("head", tells=("lora-dist: head: adapts lm_head, whose weight is also that of model.embed_tokens",))


def test_a_damaged_provenance(place, refused):
    (place.a / FILE).write_text('{"version": 1}')
    refused("a", tells=(FILE, "is damaged"))
    place.told(place.a, fingerprint_of(ModelSection(path=str(place.base))))
    document = json.loads((place.a / FILE).read_text())
    (place.a / FILE).write_text(json.dumps(document | {"method": {"kind": "qlora", "rank": "x"}}))
    refused("a", *WORD_PROBLEMS, tells=(FILE, "no method of ours"))


WORD_PROBLEMS = (
    "--data", "builtin:word-problems", "data.task=instruction", "data.columns={prompt: question, completion: answer}",
)  # fmt: skip


def test_data_that_cannot_be_measured_on(refused):
    refused("a", "data.task=instruction", tells=("data.path: is missing",))
    refused("a", "--data", "nowhere.jsonl", "data.task=instruction", tells=("data.path", "--no-evaluate"))
    refused("a", *WORD_PROBLEMS, "data.max_eval_exmples=5", tells=("did you mean 'max_eval_examples'",))
    refused("a", *WORD_PROBLEMS, "data.columns.prompt=questoin", tells=("data.columns.prompt", "did you mean"))
    refused("a", *WORD_PROBLEMS, "model.trust_remote_code=true", tells=("model.trust_remote_code", "--base"))


def test_no_room_on_the_disk(place, refused, mount):
    mount(place.path / "disk", "size=200k")
    refused("a", into="disk/new/merged", tells=("the merged model takes", "MiB are free", "--into"))


def test_a_disk_that_is_filled_by_others_meanwhile(place, refused, mount, monkeypatch):
    mount(place.path / "disk", "size=200k")
    from lora_dist.pipeline import merge_files

    monkeypatch.setattr(merge_files, "check_free", lambda *_: None)  # as if the room had been there when it looked
    refused("a", into="disk/new/merged", tells=("free some space",))
