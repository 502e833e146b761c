"""A model brought onto this disk: of a hub id, the files that loading reads, into the shared cache."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from lora_dist.config.sections import ModelSection
from lora_dist.hub import Report, Repository, Unreachable, download, look_up
from lora_dist.models.builtin import builtin_model_is_made
from lora_dist.models.loading import empty_model, load_tokenizer
from lora_dist.models.sources import BUILTIN, hub_errors, source_of
from lora_dist.models.weights import lacks_shard, no_safetensors, shards_of, source_file
from lora_dist.store.fetched import Fetched
from lora_dist.store.sizes import bytes_in

# Beside the weights, at the top of a repository: config, tokenizer, chat template. Never pickles, weights of other
# frameworks, or the same weights under another name (consolidated.safetensors).
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.codes", "*.bpe")
_CODE = "*.py"
_TEMPLATES = "additional_chat_templates/*.jinja"
Opener = Callable[[ModelSection, Report | None], PreTrainedModel]


def fetch_model(section: ModelSection, report: Report, open_empty: Opener = empty_model) -> Fetched:
    """Make sure that this model can be opened without a network: download it, or make a built-in one.

    Args:
        open_empty: opens its structure, as the runs will.
    Raises:
        ModelError: it is not there, is gated, has no safetensors weights, or does not fit the disk; or the hub cannot
            be reached and it is not in the cache.
    """
    if section.path.startswith(BUILTIN):
        was_made = builtin_model_is_made(section.path.removeprefix(BUILTIN))
        folder = Path(source_of(section, report))
        return Fetched(str(folder), bytes_in(folder), "already there" if was_made else "made here")
    source = source_of(section)
    if Path(source).is_absolute():
        return Fetched(source, None, "local")
    with hub_errors(section):
        report(0, 0, f"asking the hub for {source}")
        try:
            repository = look_up("model", source, section.revision)
        except Unreachable:
            snapshot = _snapshot_in_cache(section, source)
            if snapshot is None:
                raise
            return Fetched(str(snapshot), bytes_in(snapshot), "already there")
        return _fetch(section, repository, report, open_empty)


def _fetch(section: ModelSection, repository: Repository, report: Report, open_empty: Opener) -> Fetched:
    wanted = [name for name in repository.sizes if _is_small(section, name)]
    came = download(repository, wanted, report)
    # Asked for by its branch or tag, which then stands for this commit in the cache.
    config = source_file(section, "config.json")
    weights = _weights(section, repository)
    report(0, 0, "the weights")
    came += download(repository, weights, report)
    # Opening fetches what has another name than those above: rare vocabularies, code from other repositories.
    load_tokenizer(section)
    open_empty(section, None)
    size = sum(repository.sizes[name] for name in [*wanted, *weights])
    where = config.parent if config else repository.cache
    return Fetched(str(where), size, "fetched" if came else "already there")


def _is_small(section: ModelSection, name: str) -> bool:
    patterns = (*_SMALL, _CODE) if section.trust_remote_code else _SMALL
    return fnmatch(name, _TEMPLATES) or ("/" not in name and any(fnmatch(name, pattern) for pattern in patterns))


def _weights(section: ModelSection, repository: Repository) -> list[str]:
    """The files that `check_weights` will ask for."""
    if SAFE_WEIGHTS_NAME in repository.sizes:
        return [SAFE_WEIGHTS_NAME]
    index = source_file(section, SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        raise no_safetensors(section)
    shards = shards_of(section, index)
    for name in shards:
        if name not in repository.sizes:
            raise lacks_shard(section, name)
    return shards


def _snapshot_in_cache(section: ModelSection, name: str) -> Path | None:
    """The folder of a model that can be opened from the cache alone."""

    def cached(file: str) -> Path | None:
        found = try_to_load_from_cache(name, file, revision=section.revision)
        return Path(found) if isinstance(found, str) else None

    config, single, index = map(cached, ("config.json", SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    is_whole = single or (index and all(cached(file) for file in shards_of(section, index)))
    return config.parent if config and is_whole else None
