"""The built-in models: small, trained on this machine from a generated text, kept in the user's cache.

<user cache>/models/
├── tiny-llama-<16 hex of recipe and text>/     complete as soon as it has this name
├── .tiny-llama-<16 hex>.partial.*/             being written; what a killed process left is removed
└── .tiny-llama-<16 hex>.lock                   held by the process that makes the model
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_dist.assets import user_cache
from lora_dist.corpora.general_text import documents
from lora_dist.errors import ModelError, StorageError
from lora_dist.models.pretraining import Recipe, Report, make_model
from lora_dist.store.atomic import make_folder, whole_folder
from lora_dist.store.lock import Held, exclusive

BUILTIN_MODELS = ("tiny-llama",)

_VERSION = 1  # raise it when the same recipe and text no longer give the same model
_POLL_SECONDS = 0.2
_RECIPES = {"tiny-llama": Recipe()}


def builtin_config(name: str) -> dict[str, Any]:
    """What the config.json of a built-in model says of its shape, without making the model.

    Raises:
        ModelError: no built-in model has this name.
    """
    recipe = _recipe_of(name)
    return {
        "model_type": "llama",
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.intermediate,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "vocab_size": recipe.vocabulary,
        "max_position_embeddings": recipe.context,
        "tie_word_embeddings": False,
    }


def _recipe_of(name: str) -> Recipe:
    if name not in BUILTIN_MODELS:
        raise ModelError(
            key="model.path",
            problem=f"no built-in model is called '{name}'",
            fix="use " + ", ".join(f"builtin:{known}" for known in BUILTIN_MODELS),
        )
    return _RECIPES[name]


def builtin_model_folder(name: str, report: Report | None = None, recipe: Recipe | None = None) -> Path:
    """The folder of the built-in model `name`; the first call on a machine trains it, for about half a minute.

    Processes that ask at once wait for the one that trains. `report(done, total, text)` hears of the
    progress, in steps; while another process trains, `total` is 0. `recipe` replaces the model's own.

    Raises:
        ModelError: no built-in model has this name.
        StorageError: the user's cache cannot be written.
    """
    recipe = recipe or _recipe_of(name)
    texts = documents(recipe.documents, recipe.seed)
    folder = _place(name, recipe, texts)
    try:
        _make_once(folder, recipe, texts, report or _silent)
    except StorageError as error:
        raise StorageError(
            key=str(folder.parent),
            problem=f"the built-in model cannot be kept here: {error.problems[0].problem}",
            fix="mend this folder, or set XDG_CACHE_HOME to one that you may write to",
        ) from error
    return folder


def builtin_model_is_made(name: str) -> bool:
    """Whether somebody has asked for this built-in model before.

    Raises:
        ModelError: no built-in model has this name.
    """
    recipe = _recipe_of(name)
    return _place(name, recipe, documents(recipe.documents, recipe.seed)).is_dir()


def _place(name: str, recipe: Recipe, texts: Sequence[str]) -> Path:
    return user_cache() / "models" / f"{name}-{_content_hash(recipe, texts)}"


def _make_once(folder: Path, recipe: Recipe, texts: Sequence[str], report: Report) -> None:
    while not folder.is_dir():
        make_folder(folder.parent)
        try:
            with exclusive(folder.with_name(f".{folder.name}.lock")):
                if not folder.is_dir():  # else another process finished it between the two looks
                    with whole_folder(folder) as aside:
                        make_model(recipe, texts, aside, report)
        except Held as held:
            report(0, 0, f"{held.owner or 'another process'} is making the built-in model; waiting for it")
            time.sleep(_POLL_SECONDS)


def _content_hash(recipe: Recipe, texts: Sequence[str]) -> str:
    content = json.dumps([_VERSION, asdict(recipe), texts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _silent(done: int, total: int, text: str) -> None:
    pass
