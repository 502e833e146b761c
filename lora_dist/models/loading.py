"""Opening a pretrained model and its tokenizer: a hub id, a local folder, or a built-in one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.models.builtin import builtin_model_folder

BUILTIN = "builtin:"
Report = Callable[[int, int, str], None]


def source_of(section: ModelSection, report: Report | None = None) -> str:
    """What transformers is asked to open: an absolute folder, or a hub id. Makes a built-in model if need be.

    Raises:
        ModelError: there is no built-in model of that name, or no such folder.
    """
    if section.path.startswith(BUILTIN):
        return str(builtin_model_folder(section.path.removeprefix(BUILTIN), report))
    path = Path(section.path).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.exists():
        raise _model_error(section, "is a file, not a model folder", "give the folder that holds config.json")
    if section.path.startswith((".", "/", "~")) or section.path.count("/") > 1:
        raise _model_error(section, "no such folder", "give a model folder, a hub id or builtin:tiny-llama")
    return section.path


def load_tokenizer(section: ModelSection, report: Report | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer; one without a padding token pads with EOS (padding is never scored).

    Raises:
        ModelError: it is not there, or cannot be opened.
    """
    source = source_of(section, report)
    with _hub_errors(section):
        tokenizer = AutoTokenizer.from_pretrained(source, **_hub_options(section))
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise _model_error(
                section, "its tokenizer has neither a padding nor an EOS token", "add one to tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def empty_model(section: ModelSection, report: Report | None = None) -> PreTrainedModel:
    """The model's structure without weights (meta device), for checks that cost no memory.

    Raises:
        ModelError: the model is not there, or is not a causal language model.
    """
    source = source_of(section, report)
    with _hub_errors(section):
        config = AutoConfig.from_pretrained(source, **_hub_options(section))
    with _hub_errors(section), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=section.trust_remote_code)


def context_length(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model's positions allow, in tokens, or None when it says none."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def load_model(
    section: ModelSection,
    *,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path | None = None,
    quantization: Any = None,
) -> PreTrainedModel:
    """Load the pretrained weights (or those a run saved in `folder`) onto `device`. Only safetensors are read.

    Args:
        quantization: a transformers quantisation config for a 4-bit base.
    Raises:
        ModelError: the weights are missing, not safetensors, or not those of a causal language model.
    """
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if section.attention != "auto":
        options["attn_implementation"] = section.attention
    if quantization is not None:
        options["quantization_config"] = quantization
    if quantization is not None or device.type != "cpu":
        options["device_map"] = {"": device}
    if folder is None:
        options |= _hub_options(section)
    with _hub_errors(section):
        return AutoModelForCausalLM.from_pretrained(str(folder or source_of(section)), **options)


def quiet_transformers() -> None:
    """No bars and no deprecation notes of the stack's own: progress is shown in one place, and versions are pinned."""
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|peft|torch")


def _hub_options(section: ModelSection) -> dict[str, Any]:
    return {"revision": section.revision, "trust_remote_code": section.trust_remote_code}


def _model_error(section: ModelSection, problem: str, fix: str) -> ModelError:
    return ModelError(key="model.path", problem=f"'{section.path}' {problem}", fix=fix)


@contextlib.contextmanager
def _hub_errors(section: ModelSection) -> Iterator[None]:
    """What transformers and the hub say, as one line with a fix."""
    try:
        yield
    except (OSError, ValueError, ImportError, hub.HFValidationError) as error:
        raise _model_error(section, *_explain(error, section)) from error


def _explain(error: Exception, section: ModelSection) -> tuple[str, str]:
    """Problem and fix for what was raised while opening a model. transformers wraps the hub's errors, so look below."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    text = " ".join(str(error).split())
    if any(isinstance(link, hub.GatedRepoError) for link in chain):
        return "is gated, and you have not been granted access", "ask for it on its hub page, then `hf auth login`"
    if any(isinstance(link, hub.RevisionNotFoundError) for link in chain):
        return f"has no revision '{section.revision}'", "correct model.revision"
    if any(isinstance(link, hub.RepositoryNotFoundError | hub.HFValidationError) for link in chain):
        return "is not on the hub", "correct the id, or give a local folder or builtin:tiny-llama"
    if any(isinstance(link, hub.LocalEntryNotFoundError | hub.OfflineModeIsEnabled) for link in chain):
        return (
            "is not in the cache, and the hub cannot be reached",
            "download it on a machine with internet (`hf download`), or give a local folder or builtin:tiny-llama",
        )
    if "trust_remote_code" in text:
        return "comes with its own Python code", "set model.trust_remote_code=true if you trust it"
    if "safetensors" in text:
        return f"has no safetensors weights ({text[:200]})", "convert them with transformers' save_pretrained"
    return f"cannot be opened as a causal language model: {text[:300]}", "check the folder or id"
