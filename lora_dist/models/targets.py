"""The linears of a base that adapters go on: do the adapters fit it, and have they all that their configs name?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_dist.config.combination import Combination
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ConfigError, ModelError
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.factors import Factors, rank_of
from lora_dist.models.loading import empty_model
from lora_dist.models.sources import model_error
from lora_dist.models.stored import StoredWeights
from lora_dist.models.structure import linear_names

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""What a weight can be held in and have an update added."""


@dataclass(frozen=True)
class Target:
    """A linear under some adapter."""

    module: str
    is_turned: bool
    """Stored [inputs, outputs], as GPT-2's Conv1D is."""


def find_targets(
    base: ModelSection,
    stored: StoredWeights,
    adapters: Sequence[AdapterFolder],
    factors: Sequence[Mapping[str, Factors]],
    combination: Combination,
) -> dict[str, Target]:
    """The linears under the adapters, by the name under which their weight is stored.

    Raises:
        ModelError: an adapter does not fit the base or is not whole, or the base is stored quantised.
        ConfigError: factors of unequal ranks are to be added up.
    """
    model = empty_model(base)
    if getattr(model.config, "quantization_config", None) is not None:
        raise quantised(base, "is stored quantised")
    names = stored.names_for(model)
    modules, twins = dict(model.named_modules()), twins_of(model)
    targets: dict[str, Target] = {}
    for adapter, parts in zip(adapters, factors, strict=True):
        for module, part in parts.items():
            if f"{module}.weight" in twins:
                problem = f"adapts {module}, whose weight is also that of {twins[f'{module}.weight']}"
                raise ModelError(key=adapter.name, problem=problem, fix="open it with peft, unmerged")
            weight = names.get(f"{module}.weight")
            if weight is None or not isinstance(modules.get(module), nn.Linear | Conv1D):
                raise misfit(adapter, base, f"there is no linear '{module[:120]}' in it")
            target = Target(module, isinstance(modules[module], Conv1D))
            _check_shape(adapter, base, stored, weight, target, part)
            targets[weight] = target
        _check_whole(adapter, base, model, parts)
    if combination.needs_equal_ranks():
        _refuse_unequal_ranks([target.module for target in targets.values()], factors)
    return targets


def _check_shape(
    adapter: AdapterFolder, base: ModelSection, stored: StoredWeights, weight: str, target: Target, part: Factors
) -> None:
    found = stored.tensors[weight]
    shape = tuple(reversed(found.shape)) if target.is_turned else found.shape
    if shape != part.shape:
        raise misfit(adapter, base, f"{target.module} is {list(shape)} there, and its update {list(part.shape)}")
    if stored.dtype_of(weight) not in FLOATS:
        raise quantised(base, f"holds {target.module} as {found.dtype}")


def _check_whole(
    adapter: AdapterFolder, base: ModelSection, model: PreTrainedModel, parts: Mapping[str, Factors]
) -> None:
    """Make sure that the file has what its config names, no more and no less: peft goes on without what lacks."""
    named = set(named_linears(adapter, model))
    if lost := sorted(named - set(parts)):
        raise ModelError(
            key=str(adapter.weights),
            problem=f"lacks the factors of {lost[0]}, and of {len(lost)} linears in all, which its config names",
            fix="copy or download it again, or give the base that it was trained on",
        )
    if named and (more := sorted(set(parts) - named)):
        raise misfit(adapter, base, f"{more[0]} is none of the target_modules of its config")
    for module, part in parts.items():
        if part.rank != (rank := rank_of(adapter.config, module)):
            raise ModelError(
                key=str(adapter.weights),
                problem=f"has factors of rank {part.rank} of {module}, and its config says {rank}",
                fix="copy the adapter's folder again",
            )


def named_linears(adapter: AdapterFolder, model: PreTrainedModel) -> Iterator[str]:
    """The linears that the config names; none, where it leaves the choice to peft."""
    config = adapter.config
    if config.target_modules is None:
        return
    if config.target_modules == "all-linear":
        yield from linear_names(model)
        return
    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | Conv1D) and check_target_module_exists(config, name):
                yield name
    except (re.error, TypeError, AttributeError) as error:
        raise ModelError(
            key=str(adapter.path),
            problem=f"has a damaged adapter_config.json (target_modules: {error})",
            fix="copy the adapter's folder again",
        ) from error


def twins_of(model: nn.Module) -> dict[str, str]:
    """Of weights that are one in memory under several names: each name, and another one."""
    by_weight: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        by_weight.setdefault(id(weight), []).append(name)
    shared = [names for names in by_weight.values() if len(names) > 1]
    return {name: names[0] if name != names[0] else names[1] for names in shared for name in names}


def _refuse_unequal_ranks(modules: Sequence[str], factors: Sequence[Mapping[str, Factors]]) -> None:
    for module in modules:
        ranks = [parts[module].rank for parts in factors if module in parts]
        if len(set(ranks)) > 1:
            raise ConfigError(
                key="--method",
                problem=f"linear adds up factors, and those of {module} have ranks {', '.join(map(str, ranks))}",
                fix="use weighted, which adds up what they do to the weights, or ties or dare",
            )


def quantised(base: ModelSection, problem: str) -> ModelError:
    """A base whose weights have been rounded."""
    lost = f"{problem}, and merging into rounded weights loses what was trained"
    return model_error(base, lost, "give the 16-bit base")


def misfit(adapter: AdapterFolder, base: ModelSection, problem: str) -> ModelError:
    """An adapter that is another base's."""
    return ModelError(
        key=adapter.name, problem=f"does not fit '{base.path}': {problem}", fix="give the base that it was trained on"
    )
