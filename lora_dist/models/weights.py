"""Are a model's weights there and whole? Their safetensors headers tell, without reading the weights."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.hub import how_to_fetch, is_offline, why_unreachable
from lora_dist.models.sources import Report, hub_errors, model_error, source_of


def check_weights(section: ModelSection, report: Report | None = None) -> list[Path]:
    """Make sure that the weights can be loaded later; those of a hub id are downloaded into its cache now.

    Returns the safetensors files that hold them.

    Raises:
        ModelError: they are not there, not in safetensors files, or a file is damaged (each is as long as its header
            says).
    """
    source = source_of(section, report)
    single = _file(section, source, SAFE_WEIGHTS_NAME)
    if single is not None:
        _check_header(section, single)
        return [single]
    index = _file(section, source, SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        raise _not_there(section, source, no_safetensors(section))
    shards = []
    for name in shards_of(section, index):
        shard = _file(section, source, name)
        if shard is None:
            raise _not_there(section, source, lacks_shard(section, name))
        _check_header(section, shard)
        shards.append(shard)
    return shards


def source_file(section: ModelSection, name: str) -> Path | None:
    """A file beside the weights, such as generation_config.json; None where the source has none.

    Raises:
        ModelError: the model is not there.
    """
    return _file(section, source_of(section), name)


def _file(section: ModelSection, source: str, name: str) -> Path | None:
    with hub_errors(section):
        found = cached_file(source, name, revision=section.revision, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def no_safetensors(section: ModelSection) -> ModelError:
    """There are weights in another format, or none."""
    return model_error(section, "has no safetensors weights", "convert them with transformers' save_pretrained")


def lacks_shard(section: ModelSection, name: str) -> ModelError:
    """A part of the weights is not there."""
    return model_error(section, f"lacks {name}, which {SAFE_WEIGHTS_INDEX_NAME} names", "download or copy it again")


def _not_there(section: ModelSection, source: str, otherwise: ModelError) -> ModelError:
    """Without a network a file that was never fetched looks as one that does not exist."""
    if is_offline() and not Path(source).is_absolute():
        return model_error(section, f"has not all of its weights in the cache, and {why_unreachable()}", how_to_fetch())
    return otherwise


def shards_of(section: ModelSection, index: Path) -> list[str]:
    """The files that an index of weights names.

    Raises:
        ModelError: it cannot be read, or names files elsewhere.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not all(isinstance(name, str) for name in names):
            raise TypeError("a file's name is no text")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise model_error(section, f"has a damaged {index.name}: {error}", "download or copy it again") from error
    for name in names:
        if (
            Path(name).name != name or name == ".." or "\0" in name
        ):  # an index comes from anywhere: it may name files of its own folder only
            raise model_error(section, f"names '{name}' in {index.name}, outside its folder", "do not use this model")
    return names


def _check_header(section: ModelSection, file: Path) -> None:
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise model_error(section, f"has a damaged {file.name}: {error}", "download or copy it again") from error
