"""Where a pretrained model comes from (hub id, local folder, built-in), and what goes wrong there in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from huggingface_hub import errors as hub
from safetensors import SafetensorError

from lora_dist.assets import user_path
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.hub import (
    MORE_ROOM,
    OTHER_CACHE,
    Unreachable,
    chain_of,
    how_to_fetch,
    is_full,
    is_write_protected,
    why_unreachable,
)
from lora_dist.models.builtin import builtin_model_folder

BUILTIN = "builtin:"
Report = Callable[[int, int, str], None]


def source_of(section: ModelSection, report: Report | None = None) -> str:
    """What transformers is asked to open: an absolute folder, or a hub id. Makes a built-in model if need be.

    Raises:
        ModelError: there is no built-in model of that name, or no such folder, or it is not a model's.
    """
    if section.path.startswith(BUILTIN):
        return str(builtin_model_folder(section.path.removeprefix(BUILTIN), report))
    path = user_path(section.path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            is_adapter = (path / "adapter_config.json").is_file()
            what = "is an adapter, not a model" if is_adapter else "has no config.json in it"
            raise model_error(section, what, "give a folder that transformers' save_pretrained made of a whole model")
        if section.revision is not None:
            raise ModelError(key="model.revision", problem="a local folder has no revisions", fix="set it to null")
        return str(path.resolve())
    if path.exists():
        raise model_error(section, "is a file, not a model folder", "give the folder that holds config.json")
    if section.path.startswith((".", "/", "~")) or section.path.count("/") > 1:
        raise model_error(section, "is no folder here", "give a model folder, a hub id or builtin:tiny-llama")
    return section.path


def hub_options(section: ModelSection) -> dict[str, Any]:
    """The keyword arguments of transformers' `from_pretrained` that say which model is meant."""
    return {"revision": section.revision, "trust_remote_code": section.trust_remote_code}


def model_error(section: ModelSection, problem: str, fix: str) -> ModelError:
    """An error about `model.path`."""
    return ModelError(key="model.path", problem=f"'{section.path}' {problem}", fix=fix)


@contextlib.contextmanager
def hub_errors(section: ModelSection) -> Iterator[None]:
    """What transformers and the hub say, as one line with a fix."""
    try:
        yield
    except (OSError, ValueError, ImportError, hub.HFValidationError, SafetensorError) as error:
        if _plain(section.attention) in _plain(str(error)) and section.attention != "auto":
            raise ModelError(
                key="model.attention",
                problem=f"'{section.attention}' cannot be had here: {_one_line(error)}",
                fix="use auto, sdpa or eager, or install what it needs",
            ) from error
        if any(isinstance(link, hub.RevisionNotFoundError) for link in chain_of(error)):
            raise ModelError(
                key="model.revision",
                problem=f"'{section.path}' has no revision '{section.revision}'",
                fix="use a branch, tag or commit of it, or null",
            ) from error
        raise model_error(section, *_explain(error)) from error


def _explain(error: Exception) -> tuple[str, str]:
    """Problem and fix for what was raised while opening a model. transformers wraps the hub's errors, so look below."""
    chain = chain_of(error)
    text = str(error)
    if any(isinstance(link, hub.GatedRepoError) for link in chain):
        return "is gated, and you have not been granted access", "ask for it on its hub page, then `hf auth login`"
    if any(isinstance(link, hub.RepositoryNotFoundError | hub.HFValidationError) for link in chain):
        return (
            "is not on the hub",
            "correct the id, log in if it is private (`hf auth login`), or give a local folder or builtin:tiny-llama",
        )
    if any(is_full(link) for link in chain):
        return f"does not fit the disk of the cache ({_one_line(error)})", MORE_ROOM
    if any(is_write_protected(link) for link in chain):
        return f"cannot be written into the cache ({_one_line(error)})", OTHER_CACHE
    if any(isinstance(link, hub.LocalEntryNotFoundError | hub.OfflineModeIsEnabled | Unreachable) for link in chain):
        return (
            f"is not in the cache, and {why_unreachable()}",
            f"{how_to_fetch()}, or give a local folder or builtin:tiny-llama",
        )
    if any(isinstance(link, hub.HfHubHTTPError) for link in chain):
        return f"is refused by the hub: {_one_line(error)}", "log in again (`hf auth login`), or try later"
    if "trust_remote_code" in text:
        return "comes with its own Python code", "set model.trust_remote_code=true if you trust it"
    if "backend tokenizer" in text:
        return "has no tokenizer that can be opened", "put tokenizer.json and tokenizer_config.json beside config.json"
    return f"cannot be opened as a causal language model: {_one_line(error)}", "check the folder or id"


def _plain(text: str) -> str:
    """flash_attention_2 and FlashAttention2 are the same to a reader."""
    return text.lower().replace("_", "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
