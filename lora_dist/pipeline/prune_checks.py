"""What can be known of a pruning before it starts: structure, names of the weights, chain of blocks, tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from lora_dist.config.experiment import Run
from lora_dist.config.pruning import PruneSection
from lora_dist.errors import Problem
from lora_dist.models.skeleton import put_stand_ins, skeleton
from lora_dist.models.stored import StoredWeights
from lora_dist.models.structure import decoder_blocks
from lora_dist.pruning.calibration import calibration_length, check_enough
from lora_dist.pruning.chain import block_calls, input_groups
from lora_dist.pruning.targets import goals_of, linears_of, structure_problems

_PROBE_TOKENS = 8


def pruning_problems(run: Run, section: PruneSection) -> Iterator[Problem]:
    """What of the prune section does not fit the run's model.

    Raises:
        ModelError: its weights are stored under other names, or its blocks are not called one after the other.
    """
    model = skeleton(run.model)
    problems = list(structure_problems(model, section))
    yield from problems
    if problems:
        return
    StoredWeights.of_source(run.model).names_for(model)
    if not section.uses_data:
        return
    put_stand_ins(model)
    _, blocks = decoder_blocks(model)
    goals = goals_of(model, section)
    with torch.no_grad():
        hidden_BTH, calls = block_calls(model, torch.zeros(1, _PROBE_TOKENS, dtype=torch.long))
        number = next((index for index, block in enumerate(goals) if block.goals), None)
        if number is not None:
            linears = linears_of(blocks[number])
            input_groups(
                blocks[number], calls[number], hidden_BTH, {name: linears[name] for name in goals[number].goals}
            )


def check_calibration(section: PruneSection, context: int | None, train_tokens: Callable[[], int]) -> None:
    """Make sure that there are enough calibration tokens.

    Args:
        context: positions that the model has, or None.
        train_tokens: of the train split of the calibration data; not asked when no tokens are needed.
    Raises:
        ConfigError, DataError: a length above the context, or too few tokens.
    """
    if section.uses_data:
        length = calibration_length(section.calibration, context)
        check_enough(section.calibration, train_tokens(), length)
