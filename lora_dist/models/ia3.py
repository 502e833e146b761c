"""(IA)^3 (arXiv 2205.05638) through peft: a trained scale for each key, each value and each activation inside the MLP.

On a linear whose outputs it scales, the vector has their length; on an MLP's down projection, which it gives scaled
inputs, theirs. peft calls the latter feedforward.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from peft import IA3Config
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_dist.config.sections import MethodSection
from lora_dist.errors import ModelError, Problem
from lora_dist.models.structure import decoder_blocks, linear_names

_KEYS_OR_VALUES = re.compile(r"(?:^|_)(?:w?[kv]|key|keys|value|values)(?:_|$)", re.IGNORECASE)
"""k_proj, v_lin, key, value, wk."""
_FUSED = re.compile(r"qkv|query_key_value|(?:^|_)c_attn$", re.IGNORECASE)
"""Queries, keys and values from one linear: its outputs are scaled as a whole, as peft does."""


@dataclass(frozen=True)
class Places:
    """Where (IA)^3 goes in a model: dotted names of linears."""

    scaled_outputs: tuple[str, ...]
    scaled_inputs: tuple[str, ...]
    """Down projections."""

    @property
    def all(self) -> tuple[str, ...]:
        """Both."""
        return self.scaled_outputs + self.scaled_inputs


def ia3_config(model: PreTrainedModel, method: MethodSection) -> IA3Config:
    """peft's config for an `ia3` method on `model`.

    Raises:
        ModelError: the places of the paper are not found, and `method.targets` names no others.
    """
    places = places_of(model, method)
    targets, feedforward = _shortest_names(places, linear_names(model))
    return IA3Config(
        task_type="CAUSAL_LM",
        target_modules=sorted(targets),
        feedforward_modules=sorted(feedforward),
        fan_in_fan_out=isinstance(model.get_submodule(places.all[0]), Conv1D),
    )


def places_of(model: PreTrainedModel, method: MethodSection) -> Places:
    """The linears that `method` scales: those that it names, else those of the paper (section 3.3).

    Raises:
        ModelError: see `ia3_config`.
    """
    blocks_name, blocks = decoder_blocks(model)
    by_block = [_linears_in(f"{blocks_name}.{number}", block) for number, block in enumerate(blocks)]
    down = {name for linears in by_block for name in _down_projections(linears, _hidden_size(model))}
    if method.targets != "all-linear":
        named = [name for name in linear_names(model) if any(_is_called(name, target) for target in method.targets)]
        return Places(tuple(name for name in named if name not in down), tuple(name for name in named if name in down))
    attended = [name for linears in by_block for name in linears if _makes_keys_or_values(name)]
    if not attended or not down:
        lacking = "key and value projections" if not attended else "down projections"
        raise ModelError(
            key="method.targets",
            problem=f"the {lacking} of {type(model).__name__} were not found",
            fix=f"name its linears: {', '.join(_leaves(linear_names(model)))}",
        )
    return Places(tuple(attended), tuple(name for linears in by_block for name in linears if name in down))


def ia3_problems(model: PreTrainedModel, method: MethodSection) -> Iterator[Problem]:
    """Why the places of the paper cannot be taken in `model` (which may be on the meta device)."""
    try:
        places_of(model, method)
    except ModelError as error:
        yield from error.problems


def _linears_in(prefix: str, block: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{prefix}.{name}": module for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }


def _down_projections(linears: dict[str, nn.Module], hidden: int) -> Iterator[str]:
    """Of each part of a block that makes no keys, the last linear with as many outputs as the model is wide."""
    attention = {_parent(name) for name in linears if _makes_keys_or_values(name)}
    last = {
        _parent(name): name
        for name, linear in linears.items()
        if _parent(name) not in attention and _outputs(linear) == hidden
    }
    first = {_parent(name): name for name in reversed(linears)}
    yield from (name for parent, name in last.items() if name != first[parent])


def _makes_keys_or_values(name: str) -> bool:
    leaf = _leaf(name)
    return bool(_KEYS_OR_VALUES.search(leaf) or _FUSED.search(leaf))


def _outputs(linear: nn.Module) -> int:
    return linear.nf if isinstance(linear, Conv1D) else linear.out_features


def _hidden_size(model: PreTrainedModel) -> int:
    return model.config.get_text_config().hidden_size


def _shortest_names(places: Places, linears: Sequence[str]) -> tuple[set[str], set[str]]:
    """`places` by the shortest ends of names that mean these linears alone: k_proj, or mlp.c_proj beside attn.c_proj.

    peft takes a name for a target by its last whole parts, and for feedforward by its last letters.
    """
    longest = max(name.count(".") for name in places.all) + 1
    for parts in range(1, longest):
        targets, feedforward = (_ends(names, parts) for names in (places.all, places.scaled_inputs))
        meant = {name for name in linears if any(_is_called(name, target) for target in targets)}
        scaled = {name for name in places.all if name.endswith(tuple(feedforward))}
        if meant == set(places.all) and scaled == set(places.scaled_inputs):
            return targets, feedforward
    return set(places.all), set(places.scaled_inputs)


def _ends(names: Iterable[str], parts: int) -> set[str]:
    return {".".join(name.split(".")[-parts:]) for name in names}


def _is_called(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _leaves(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(_leaf, names)))


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
