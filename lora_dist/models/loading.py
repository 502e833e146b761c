"""Opening a pretrained model and its tokenizer: a hub id, a local folder, or a built-in one."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lora_dist.config.sections import ModelSection
from lora_dist.models.sources import Report, hub_errors, hub_options, model_error, source_of


def load_tokenizer(section: ModelSection, report: Report | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer; one without a padding token pads with EOS (padding is never scored).

    Raises:
        ModelError: it is not there, or cannot be opened.
    """
    source = source_of(section, report)
    with hub_errors(section):
        tokenizer = AutoTokenizer.from_pretrained(source, **hub_options(section))
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise model_error(
                section, "its tokenizer has neither a padding nor an EOS token", "add one to tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def empty_model(section: ModelSection, report: Report | None = None) -> PreTrainedModel:
    """The model's structure without weights (meta device), for checks that cost no memory.

    Raises:
        ModelError: the model is not there, is not a causal language model, or cannot have this attention.
    """
    return untrained_model(section, torch.device("meta"), report)


def untrained_model(
    section: ModelSection, where: AbstractContextManager[Any], report: Report | None = None, **options: Any
) -> PreTrainedModel:
    """The model of a config.json, built in the context `where` (a device), which says what becomes of its parameters.

    Raises:
        ModelError: the model is not there, is not a causal language model, or cannot have this attention.
    """
    source = source_of(section, report)
    with hub_errors(section):
        config = AutoConfig.from_pretrained(source, **hub_options(section))
    options |= {"trust_remote_code": section.trust_remote_code, **attention_options(section)}
    with hub_errors(section), where:
        return AutoModelForCausalLM.from_config(config, **options)


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
    shared_out: bool = False,
) -> PreTrainedModel:
    """Load the pretrained weights (or those that a run has left in `folder`) onto `device`. Only safetensors are read.

    Args:
        shared_out: ZeRO-3 places the weights, a share on each rank.
        quantization: a transformers quantisation config for a 4-bit base.
    Raises:
        ModelError: the weights are missing, not safetensors, or not those of a causal language model.
    """
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, **attention_options(section)}
    options["trust_remote_code"] = section.trust_remote_code
    if quantization is not None:
        options["quantization_config"] = quantization
    if not shared_out and (quantization is not None or device.type != "cpu"):
        options["device_map"] = {"": device}
    if folder is None:
        options |= hub_options(section)
    with hub_errors(section):
        model, found = AutoModelForCausalLM.from_pretrained(
            str(folder or source_of(section)), output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    # What is missing or of another shape transformers makes up at random, and goes on.
    random = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if random:
        raise model_error(
            section,
            f"lacks {len(random)} of the weights that a {type(model).__name__} of its config has, such as {random[0]}",
            "give the weights of a whole causal language model, with their own config.json",
        )
    return model


def attention_options(section: ModelSection) -> dict[str, Any]:
    """The keyword argument by which transformers is asked for `model.attention`."""
    return {} if section.attention == "auto" else {"attn_implementation": section.attention}


def quiet_transformers() -> None:
    """No bars and no deprecation notes of the stack's own: progress is shown in one place, and versions are pinned."""
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|peft|torch")
