"""Several adapters on one loaded base: which can share it, and how they come onto it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import PreTrainedModel

from lora_dist.errors import ModelError, Problem
from lora_dist.models.adapter_files import read_header
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.beyond_lora import beyond_lora


@dataclass(frozen=True)
class SharedBase:
    """A base with several adapters on it. peft knows them by names of ours: a user's may hold anything."""

    model: PeftModel
    names: tuple[str, ...]
    """peft's name of each adapter, in the given order."""
    alone: frozenset[str]
    """Those that cannot share a batch with others: peft (0.21) refuses DoRA in one."""


def sharing_problems(adapters: Sequence[AdapterFolder]) -> Iterator[Problem]:
    """Why adapters cannot share a base, before it is loaded: one is given twice, damaged, or more than LoRA."""
    seen: dict[str, str] = {}
    for adapter in adapters:
        place = str(adapter.path.resolve())
        if place in seen:
            same = "" if seen[place] == adapter.name else f" (it is '{seen[place]}')"
            yield Problem(adapter.name, f"is given twice{same}", "name each adapter once")
        seen.setdefault(place, adapter.name)
        yield from _problems_of(adapter)


def _problems_of(adapter: AdapterFolder) -> Iterator[Problem]:
    if adapter.kind != "lora":
        problem = (
            f"is {_CALLED[adapter.kind]}, which cannot share a base with others (peft has mixed batches of LoRA only)"
        )
        yield Problem(adapter.name, problem, "give a LoRA adapter, and look at this one with `lora-dist evaluate`")
        return
    try:
        read_header(adapter.weights)
    except ModelError as error:
        yield from error.problems
    more = beyond_lora(adapter.config)
    if more:
        problem = f"is more than LoRA ({', '.join(more)}): it would change the base under the others"
        yield Problem(adapter.name, problem, "leave it out, and open it by itself with peft")


_CALLED = {"ia3": "an (IA)^3 adapter", "prefix": "a prefix"}


def share_base(base: PreTrainedModel, adapters: Sequence[AdapterFolder]) -> SharedBase:
    """`base` with all of `adapters` on it, for inference; none is active in more than its own rows.

    Raises:
        ModelError: an adapter does not fit the base.
    """
    names = tuple(f"a{number}" for number in range(len(adapters)))
    model: PeftModel | None = None
    for name, adapter in zip(names, adapters, strict=True):
        try:
            model = _put(model or base, adapter, name)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise _misfit(adapter, " ".join(str(error).split())[:300]) from error
    if model is None:
        raise ValueError("no adapter is given")
    model.requires_grad_(False)
    alone = frozenset(name for name, adapter in zip(names, adapters, strict=True) if adapter.config.use_dora)
    return SharedBase(model.eval(), names, alone)


def _put(model: PreTrainedModel | PeftModel, adapter: AdapterFolder, name: str) -> PeftModel:
    """One more adapter on a model. peft fills what a file lacks with untrained values, so that is looked at."""
    config: LoraConfig = copy.copy(adapter.config)
    config.inference_mode = True
    config.base_model_name_or_path = None  # peft warns of a base that has been moved; its weights were compared
    if isinstance(model, PeftModel):
        model.add_adapter(name, config)
    else:
        model = get_peft_model(model, config, adapter_name=name)
    found = model.load_adapter(adapter.path, name, torch_device=str(model.device))
    lacking = [key for key in found.missing_keys if f".{name}." in key]
    for what, keys in (("lacks", lacking), ("has no place here for", found.unexpected_keys)):
        if keys:
            raise _misfit(adapter, f"its file {what} {keys[0]}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''}")
    return model


def _misfit(adapter: AdapterFolder, what: str) -> ModelError:
    return ModelError(
        key=adapter.name,
        problem=f"is no adapter that fits this model: {what}",
        fix="give a complete adapter that was trained on this model",
    )
