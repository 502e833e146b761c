"""How the model of each task is opened before anything is loaded: the place where tasks part in the preparation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel

from lora_dist.config.classification import TASK as CLASSIFICATION
from lora_dist.config.sections import ModelSection, Task
from lora_dist.models.classifiers import classifier_context, empty_classifier
from lora_dist.models.loading import context_length, empty_model
from lora_dist.models.sources import Report


@dataclass(frozen=True)
class TaskModels:
    """What a task makes of a pretrained model."""

    name: str
    empty: Callable[[ModelSection, Report | None], PreTrainedModel]
    """Its structure without weights."""
    context: Callable[[PreTrainedModel], int | None]
    """The longest sequence that it reads, in tokens."""


_CLASSIFIERS = TaskModels("classifier", empty_classifier, classifier_context)
_LANGUAGE_MODELS = TaskModels("language model", empty_model, context_length)


def models_for(task: Task) -> TaskModels:
    """What `task` makes of a pretrained model."""
    return _CLASSIFIERS if task == CLASSIFICATION else _LANGUAGE_MODELS
