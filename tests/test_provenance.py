"""Which weights an adapter was trained on: fingerprints of bases, and the file that says it."""

from __future__ import annotations

import pytest
import torch
from conftest import experiment_document
from peft import get_peft_model
from pruning_cases import zero_half
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment
from lora_dist.errors import ModelError
from lora_dist.models.adapters import lora_config
from lora_dist.models.fingerprint import fingerprint, fingerprint_of
from lora_dist.models.loading import load_model
from lora_dist.models.masks import unpack_bits
from lora_dist.models.methods import quantization_config
from lora_dist.models.provenance import FILE, PRUNED_BESIDE, provenance_of, read_provenance
from lora_dist.models.sparse_lora import recall_zeros


@pytest.fixture
def pruned(tmp_path, tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    zero_half(model)
    model.save_pretrained(tmp_path / "pruned")
    return tmp_path / "pruned"


def run_of(model, problem_files, kind="lora"):
    document = experiment_document(model, problem_files)
    document["method"] = {"kind": kind, "rank": 4, "preserve_sparsity": True}
    document.pop("arms", None)
    return expand(Experiment.model_validate(document))[0]


def test_a_fingerprint_does_not_depend_on_the_files_and_tells_any_tensor(tmp_path):
    tensors = {name: torch.randn(300, 400) for name in "abc"} | {"small": torch.ones(3)}
    save_file(tensors, tmp_path / "one.safetensors")
    for name, tensor in tensors.items():
        save_file({name: tensor}, tmp_path / f"part-{name}.safetensors")
    whole = fingerprint([tmp_path / "one.safetensors"])
    assert fingerprint(sorted(tmp_path.glob("part-*"))) == whole
    others = [tensors | {"b": tensors["b"] * 1.01}, tensors | {"small": torch.tensor([1.0, 1.0, 2.0])}]
    others += [tensors | {"a": tensors["a"].T.contiguous()}, tensors | {"a": tensors["a"].bfloat16()}]
    others.append({name: tensor for name, tensor in tensors.items() if name != "c"})
    for number, other in enumerate(others):
        save_file(other, tmp_path / f"other-{number}.safetensors")
    found = {fingerprint([path]) for path in tmp_path.glob("other-*")}
    assert len(found | {whole}) == len(others) + 1


def test_an_adapter_says_where_it_comes_from(tmp_path, tiny_model, pruned, problem_files):
    run = run_of(tiny_model, problem_files)
    plain, on_pruned = provenance_of(run, None), provenance_of(run, pruned)
    assert plain.base.path == run.model.path
    assert plain.base.fingerprint == fingerprint_of(run.model)
    assert (on_pruned.base.path, on_pruned.base.source) == (PRUNED_BESIDE, run.model.path)
    assert on_pruned.base.fingerprint != plain.base.fingerprint
    on_pruned.write(tmp_path)
    assert read_provenance(tmp_path) == on_pruned
    assert on_pruned.preserves_sparsity


def test_a_damaged_file_is_named_and_a_missing_one_is_none(tmp_path):
    assert read_provenance(tmp_path) is None
    (tmp_path / FILE).write_text('{"version": 1}')
    with pytest.raises(ModelError, match=FILE):
        read_provenance(tmp_path)


def test_a_4_bit_base_keeps_the_zeros_of_the_weights_that_were_quantised(tiny_model, pruned, problem_files):
    run = run_of(tiny_model, problem_files, kind="qlora")
    quantization = quantization_config(run.method, torch.float32)
    base = load_model(
        run.model, device=torch.device("cpu"), dtype=torch.float32, folder=pruned, quantization=quantization
    )
    recall_zeros(base, run, pruned)
    model = get_peft_model(base, lora_config(run.method))
    whole = dict(AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32).named_parameters())
    layers = {name: layer for name, layer in model.get_base_model().named_modules() if hasattr(layer, "kept_bits")}
    assert layers
    for name, layer in layers.items():
        assert torch.equal(unpack_bits(layer.kept_bits, layer.in_features), whole[f"{name}.weight"] != 0)
