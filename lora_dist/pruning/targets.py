"""Which linears of a model are pruned, and how far; and what of the section does not fit the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_dist.config.pruning import PruneSection, parse_pattern
from lora_dist.errors import ModelError, Problem
from lora_dist.models.structure import decoder_blocks
from lora_dist.pruning.solver import Goal

_MATRIX = 2


@dataclass(frozen=True)
class BlockGoals:
    """One decoder block: its dotted name, and the goal of each of its pruned linears, by their names in it."""

    name: str
    goals: Mapping[str, Goal]


def linears_of(block: nn.Module) -> dict[str, nn.Module]:
    """The linears of a block by their names in it."""
    return {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def matrix_of(linear: nn.Module, weight: Tensor) -> Tensor:
    """A weight as [outputs, inputs]; GPT-2's Conv1D holds it the other way round. Its own inverse."""
    return weight.T if isinstance(linear, Conv1D) else weight


def goals_of(model: PreTrainedModel, section: PruneSection) -> list[BlockGoals]:
    """What is pruned of each decoder block, in their order.

    Raises:
        ModelError: the model has no list of blocks.
    """
    blocks_name, blocks = decoder_blocks(model)
    last = len(blocks) - section.dense_last
    found = []
    for number, block in enumerate(blocks):
        name = f"{blocks_name}.{number}"
        stays_dense = number < section.dense_first or number >= last
        goals = {} if stays_dense else {
            linear: goal
            for linear in linears_of(block)
            if (goal := _goal(f"{name}.{linear}", section)) is not None
        }  # fmt: skip
        found.append(BlockGoals(name, goals))
    return found


def _goal(name: str, section: PruneSection) -> Goal | None:
    if any(_fits(name, skipped) for skipped in section.skip):
        return None
    chosen = max((key for key in section.overrides if _fits(name, key)), key=len, default=None)
    return section.overrides[chosen] if chosen is not None else section.goal


def _fits(name: str, given: str) -> bool:
    return name == given or name.endswith(f".{given}")


def structure_problems(model: PreTrainedModel, section: PruneSection) -> Iterator[Problem]:
    """What of `section` does not fit the structure of `model` (which needs no weights)."""
    try:
        blocks_name, blocks = decoder_blocks(model)
    except ModelError as error:
        yield Problem(error.problems[0].key, error.problems[0].problem, "set prune to null for this model")
        return
    if (stored := getattr(model.config, "quantization_config", None)) is not None:
        kind = stored.get("quant_method", "quantised") if isinstance(stored, dict) else "quantised"
        yield Problem("model.path", f"its weights are stored {kind}", "prune the 16-bit model, then quantise")
    experts = [name for name, weight in blocks[0].named_parameters() if weight.dim() > _MATRIX]
    if experts:
        yield Problem(
            "model.path",
            f"{type(model).__name__} holds {blocks_name}.0.{experts[0]} in {blocks[0].get_parameter(experts[0]).dim()} "
            "dimensions (experts of a mixture, or a convolution), and only linears are pruned",
            "set prune to null for this model",
        )
    yield from _block_count_problems(section, len(blocks))
    names = [f"{blocks_name}.{number}.{linear}" for number, block in enumerate(blocks) for linear in linears_of(block)]
    yield from _name_problems("prune.skip", section.skip, names)
    yield from _name_problems("prune.overrides", section.overrides, names)
    yield from _pattern_problems(model, section)


def _block_count_problems(section: PruneSection, count: int) -> Iterator[Problem]:
    if section.dense_first + section.dense_last >= count:
        yield Problem(
            "prune.dense_first",
            f"{section.dense_first} first and {section.dense_last} last blocks are to stay dense, and this model has "
            f"{count}",
            f"leave at least one block to prune, fewer than {count} dense ones together",
        )


def _name_problems(key: str, given: Iterable[str], names: Sequence[str]) -> Iterator[Problem]:
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    for name in given:
        if not any(_fits(known, name) for known in names):
            yield Problem(
                key, f"no linear in this model's blocks is called '{name}'", f"use some of {', '.join(leaves)}"
            )


def _pattern_problems(model: PreTrainedModel, section: PruneSection) -> Iterator[Problem]:
    """Inputs that are no whole groups, one problem for each pattern."""
    odd: dict[str, dict[str, int]] = {}
    for block in goals_of(model, section):
        for linear, goal in block.goals.items():
            module = model.get_submodule(f"{block.name}.{linear}")
            columns = matrix_of(module, module.weight).shape[1]
            if isinstance(goal, str) and columns % parse_pattern(goal)[1]:
                odd.setdefault(goal, {})[linear] = columns
    for pattern, linears in odd.items():
        sizes = ", ".join(f"{linear} ({columns})" for linear, columns in linears.items())
        names = ", ".join(dict.fromkeys(linear.rpartition(".")[2] for linear in linears))
        yield Problem(
            "prune.pattern" if pattern == section.pattern else "prune.overrides",
            f"the inputs are no whole groups of {parse_pattern(pattern)[1]} ({pattern}) in {sizes}",
            f"use another pattern, or prune.skip=[{names}]",
        )
