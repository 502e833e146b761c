"""Weights are checked by their headers before anything starts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.models.weights import check_weights


def folder_with_index(folder, shard: str):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    return ModelSection(path=str(folder))


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_cannot_name_files_outside_its_folder(tmp_path, shard):
    save_file({"a": torch.ones(2)}, tmp_path / "secret.safetensors")
    with pytest.raises(ModelError, match="outside its folder"):
        check_weights(folder_with_index(tmp_path / "model", shard))


def test_a_whole_shard_passes_and_a_cut_one_does_not(tmp_path):
    section = folder_with_index(tmp_path / "model", "model-1.safetensors")
    shard = tmp_path / "model" / "model-1.safetensors"
    save_file({"a": torch.ones(1000)}, shard)
    check_weights(section)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelError, match="damaged"):
        check_weights(section)
