"""The files beside a model's weights: config, generation settings, tokenizer and chat template."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from lora_dist.config.sections import ModelSection
from lora_dist.models.weights import source_file

_CONFIG = "config.json"


def companions(
    section: ModelSection, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype | None = None
) -> dict[str, bytes]:
    """What the source has beside its weights, by file name, and the tokenizer with its chat template.

    Args:
        dtype: that of the weights that they will stand beside, if it is not the source's.
    Raises:
        ModelError: the model is not there.
    """
    with tempfile.TemporaryDirectory(prefix="lora_dist-") as name:
        tokenizer.save_pretrained(name)
        found = {path.name: path.read_bytes() for path in sorted(Path(name).iterdir())}
    for name in (_CONFIG, "generation_config.json"):
        if (path := source_file(section, name)) is not None:
            found[name] = path.read_bytes()
    return found if dtype is None else found | {_CONFIG: with_dtype(found[_CONFIG], dtype)}


def with_dtype(config: bytes, dtype: torch.dtype) -> bytes:
    """A config.json that says `dtype` of its weights. transformers does so since version 5, and reads `torch_dtype`
    still; text_config has its own."""
    name = str(dtype).removeprefix("torch.")
    document = json.loads(config)
    for part in document.values():
        if isinstance(part, dict) and part.keys() & {"dtype", "torch_dtype"}:
            part.pop("torch_dtype", None)
            part["dtype"] = name
    document.pop("torch_dtype", None)
    return json.dumps(document | {"dtype": name}, indent=2).encode() + b"\n"
