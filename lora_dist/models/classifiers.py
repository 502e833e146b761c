"""A pretrained encoder or decoder with a head that tells classes apart: opening one, and where its head is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lora_dist.config.sections import ModelSection
from lora_dist.models.loading import attention_options, context_length
from lora_dist.models.sources import Report, hub_errors, hub_options, model_error, source_of
from lora_dist.models.structure import causal_lm, head_names, is_classifier

_POOLER = "pooler"


@dataclass(frozen=True)
class Classes:
    """What a classifier has beside the weights of its model."""

    names: tuple[str, ...]
    """What its outputs 0, 1, ... are called."""
    pad_token_id: int
    """Rows are padded with it; a decoder tells by the last token that is another one."""
    seed: int
    """A new head is drawn from it."""


@dataclass(frozen=True)
class Classifier:
    """A classifier, and how much of its head is new."""

    model: PreTrainedModel
    drawn: tuple[str, ...]
    """The modules whose weights the source lacks, by dotted name: they were drawn at random. Empty where the source is
    a classifier of these very classes."""


def empty_classifier(section: ModelSection, report: Report | None = None) -> PreTrainedModel:
    """The classifier's structure without weights (meta device), with two outputs.

    Raises:
        ModelError: the model is not there, has no classifier in transformers, or cannot have this attention.
    """
    source = source_of(section, report)
    with hub_errors(section):
        config = AutoConfig.from_pretrained(source, num_labels=2, **hub_options(section))
    options = {"trust_remote_code": section.trust_remote_code, **attention_options(section)}
    with hub_errors(section), torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config, **options)


def classifier_context(model: PreTrainedModel) -> int | None:
    """The longest sequence that the model's positions allow, in tokens, or None when it says none.

    RoBERTa and its kin count positions from behind the padding's: 514 of them are 512 tokens.
    """
    most = context_length(model)
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    first = next((t.padding_idx + 1 for t in tables if getattr(t, "padding_idx", None) is not None), 0)
    return None if most is None else most - first


def load_classifier(
    section: ModelSection, classes: Classes, *, device: torch.device, dtype: torch.dtype, folder: Path | None = None
) -> Classifier:
    """Load the pretrained weights with a head for `classes`, or the classifier that a run has left in `folder`.

    A head that the source has is kept where it has these very classes by name; any other is drawn anew: weights
    from a normal distribution as wide as the model's own new weights (config.initializer_range), biases zero, as
    transformers makes a new head, but the same on every device.

    Raises:
        ModelError: the weights are missing, not safetensors, or lack more than a head.
    """
    source = str(folder or source_of(section))
    told = hub_options(section) if folder is None else {"trust_remote_code": section.trust_remote_code}
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, **attention_options(section), **told}
    if device.type != "cpu":
        options["device_map"] = {"": device}
    with hub_errors(section):
        stored = AutoConfig.from_pretrained(source, **told)
        config = AutoConfig.from_pretrained(source, num_labels=len(classes.names), **told)
        config.id2label = dict(enumerate(classes.names))
        config.label2id = {name: index for index, name in enumerate(classes.names)}
        config.problem_type = "single_label_classification"
        with _silence():
            model, found = AutoModelForSequenceClassification.from_pretrained(
                source, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    model.config.pad_token_id = classes.pad_token_id
    random = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    missing = sorted({name.rpartition(".")[0] for name in random})
    _refuse_lack(section, model, missing, whole=folder is not None)
    drawn = missing if _has_classes(stored, classes.names) else sorted({*missing, *_modules_with_weights(model)})
    _draw(section, model, drawn, classes.seed)
    return Classifier(model, tuple(drawn))


def trained_heads(classifier: Classifier) -> list[str]:
    """The dotted names of what is trained whole beside an adapter: the head, and the pooler where that was drawn."""
    poolers = {name[: name.index(_POOLER) + len(_POOLER)] for name in classifier.drawn if _is_of_pooler(name)}
    return [*head_names(classifier.model), *sorted(poolers)]


def classes_of(model: nn.Module) -> list[str] | None:
    """What the outputs of a classifier are called; None for another model."""
    return _names_in(causal_lm(model).config) if is_classifier(model) else None


def _names_in(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in sorted(config.id2label)]


def _is_of_pooler(name: str) -> bool:
    return _POOLER in name.split(".")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """transformers reports at length that a head is missing, which is what is asked for; other lacks are refused."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _modules_with_weights(model: PreTrainedModel) -> list[str]:
    """The modules of the head that own weights."""
    return [
        f"{head}.{name}".rstrip(".")
        for head in head_names(model)
        for name, module in model.get_submodule(head).named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]


def _has_classes(config: Any, names: Sequence[str]) -> bool:
    """Whether a config is of a classifier of these classes, in this order; unnamed ones are 0, 1, ..."""
    there = _names_in(config)
    unnamed = [f"LABEL_{index}" for index in range(len(names))]
    return there == list(names) or (there == unnamed and list(names) == [str(index) for index in range(len(names))])


def _refuse_lack(section: ModelSection, model: PreTrainedModel, missing: Sequence[str], *, whole: bool) -> None:
    """What transformers made up at random has to be a head, and nothing of a classifier that was trained."""
    prefix = f"{model.base_model_prefix}."
    lost = [name for name in missing if whole or (name.startswith(prefix) and not _is_of_pooler(name))]
    if lost:
        raise model_error(
            section,
            f"lacks {len(lost)} of the weights that a {type(model).__name__} of its config has, such as {lost[0]}",
            "give the weights of a whole model, with their own config.json",
        )


def _draw(section: ModelSection, model: PreTrainedModel, names: Sequence[str], seed: int) -> None:
    """New weights for the modules of these names, drawn on the CPU in this order."""
    width = getattr(model.config.get_text_config(), "initializer_range", None) or 0.02
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, nn.Linear):
            drawn = torch.randn(module.weight.shape, generator=generator) * width
            module.weight.data.copy_(drawn)
            if module.bias is not None:
                module.bias.data.zero_()
        elif all(weight.dim() == 1 for weight in module.parameters(recurse=False)):  # a norm
            module.reset_parameters()
        else:
            kind = type(module).__name__
            raise model_error(section, f"has a head with a {kind}, which is not known here", "use another model")
