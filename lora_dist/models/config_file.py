"""A model's config.json, read without importing torch or transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from lora_dist.assets import user_path
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.models.builtin import builtin_config
from lora_dist.models.sources import BUILTIN, hub_errors, model_error, source_of


def read_config(section: ModelSection, *, download: bool) -> dict[str, Any] | None:
    """What config.json says.

    Args:
        download: fetch that of a hub id that is not in the cache; otherwise such a model's is None.
    Raises:
        ModelError: there is no such model, or its config.json cannot be read.
    """
    if section.path.startswith(BUILTIN):
        return builtin_config(section.path.removeprefix(BUILTIN))
    if user_path(section.path).exists():
        return _read(section, Path(source_of(section)) / "config.json")
    name = source_of(section)
    with hub_errors(section):
        found = try_to_load_from_cache(name, "config.json", revision=section.revision)
        if not isinstance(found, str):
            if not download:
                return None
            found = hf_hub_download(name, "config.json", revision=section.revision)
    return _read(section, Path(found))


def _read(section: ModelSection, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise model_error(section, f"has a config.json that cannot be read: {error}", "copy it again") from None
    if not isinstance(document, dict):
        raise ModelError(key="model.path", problem=f"'{path}' holds no mapping", fix="copy it again")
    return document.get("text_config", document)
