"""Who does what on which rank, so that any number of ranks gives the same bytes.

Every rank sends its own samples through the block and adds up its own moments of the inputs. A group of matrices that
would keep one thread busy for long is then factored and solved by all threads of all ranks together, in tiles and
chunks of rows of fixed size; the others are dealt, each to one thread of the rank that their moments are summed on. The
results are copied from whoever made them, as replicas that compute the same are never relied on.
"""

# Dims: R rows (outputs), C columns (inputs).

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_dist.config.pruning import PruneSection
from lora_dist.errors import LoraDistError, ModelError
from lora_dist.pruning.crew import ALONE, Crew, TeamCrew, deal
from lora_dist.pruning.factor import factor_with_damping
from lora_dist.pruning.hessian import Gram, SquareSums, dead_columns
from lora_dist.pruning.solver import Goal, magnitude, sparsegpt, wanda

Moments = Gram | SquareSums

_WORTH_SHARING = 0.1
"""Of a thread's even share of all work: less is dealt whole, since the balance hardly gains and sharing costs words."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """One linear to be pruned."""

    name: str
    goal: Goal
    weight_RC: Tensor  # noqa: N815
    """As it is on the disk, outputs x inputs."""


@dataclass
class Found:
    """What became of one matrix."""

    weight_RC: Tensor  # noqa: N815
    """In the dtype that it had."""
    squared_error: float | None = None
    """Sum of e^2 over its weights, sparsegpt only."""
    damping: float | None = None
    seconds: float = 0.0


def owners_of(groups: Sequence[Sequence[Matrix]], kind: str, ranks: int, threads: int) -> list[int | None]:
    """The rank that solves each group, or None for one that all of them solve together."""
    costs = [_cost(group) for group in groups]
    even = sum(costs) / (ranks * threads)
    shared = [kind == "sparsegpt" and ranks * threads > 1 and cost > _WORTH_SHARING * even for cost in costs]
    dealt = iter(deal([cost for cost, is_shared in zip(costs, shared, strict=True) if not is_shared], ranks))
    return [None if is_shared else next(dealt) for is_shared in shared]


def _cost(group: Sequence[Matrix]) -> float:
    """Operations of SparseGPT: those of the factor, and those of the columns of each matrix."""
    columns = group[0].weight_RC.shape[1]
    return columns**2 * (2 / 3 * columns + sum(matrix.weight_RC.shape[0] for matrix in group))


def solve_block(
    groups: Sequence[Sequence[Matrix]],
    moments: list[Moments | None],
    section: PruneSection,
    samples: int,
    crew: TeamCrew,
) -> dict[str, Found]:
    """Prune the matrices of one block on the ranks of `crew`; every rank gets all results.

    Args:
        groups: matrices that share an input, in the same order on every rank.
        moments: of each group's input over this rank's samples; each is let go of as soon as it is spent.
        samples: over all ranks.
    Raises:
        HessianError: no damping makes a Hessian positive definite.
        ModelError: a linear was given nothing but zeros, or numbers that are not finite.
    """
    owners = owners_of(groups, section.kind, crew.size, crew.threads)
    for index, owner in enumerate(owners):
        crew.team.add_up(moments[index].total, owner)
        if owner not in (None, crew.rank):
            moments[index] = None
    found: dict[str, Found] = {}

    def solve(index: int, together: Crew = ALONE) -> None:
        own, moments[index] = moments[index], None
        found.update(_solve_group(groups[index], own, section, samples, together))

    mine = [index for index, owner in enumerate(owners) if owner == crew.rank]
    error: Exception | None = None
    try:
        crew.side_by_side(solve, sorted(mine, key=lambda index: -_cost(groups[index])))
    except (LoraDistError, RuntimeError) as raised:
        error = raised
    crew.team.raise_together(error)
    for index, owner in enumerate(owners):
        if owner is None:
            solve(index, crew)
        else:
            found |= {matrix.name: _sent(found.get(matrix.name), matrix, owner, crew) for matrix in groups[index]}
    return found


def _solve_group(
    group: Sequence[Matrix], moments: Moments, section: PruneSection, samples: int, crew: Crew
) -> dict[str, Found]:
    """The matrices of one group, by all of the crew; the time of what they share is the first one's."""
    if isinstance(moments, SquareSums):
        return {matrix.name: _by_norms(matrix, moments, samples) for matrix in group}
    found, since = {}, time.perf_counter()
    hessian_CC = moments.spend(samples)
    dead_C = dead_columns(hessian_CC)
    _refuse_unusable(hessian_CC.diagonal(), group[0].name)
    hessian_CC.diagonal()[dead_C] = 1
    upper_CC, damping = factor_with_damping(hessian_CC, section.damping, group[0].name, crew)
    del hessian_CC
    for matrix in group:
        solved = sparsegpt(
            matrix.weight_RC, upper_CC, matrix.goal, dead_C=dead_C, block_size=section.block_size, crew=crew
        )
        now = time.perf_counter()
        found[matrix.name] = Found(solved.weight_RC, solved.squared_error, damping, now - since)
        since = now
    return found


def _refuse_unusable(moments_C: Tensor, name: str) -> None:
    """Inputs that say nothing of the weights: none but zeros, or numbers that are none."""
    if not bool(torch.isfinite(moments_C).all()):
        raise ModelError(
            key="model.dtype",
            problem=f"the inputs of {name} are not finite (NaN or infinite) on the calibration tokens",
            fix="use float32 or bfloat16; if it is that already, the weights are damaged",
        )
    if not bool(moments_C.any()):
        raise ModelError(
            key="prune.skip",
            problem=f"{name} was given nothing but zeros by the calibration tokens: every weight of it would go",
            fix=f"add it there, prune.skip=[{name.rpartition('.')[2]}], or give other calibration data",
        )


def _by_norms(matrix: Matrix, moments: SquareSums, samples: int) -> Found:
    started = time.perf_counter()
    norm_C = (moments.total / samples).sqrt().float()
    _refuse_unusable(norm_C, matrix.name)
    gone_RC = wanda(matrix.weight_RC.float(), norm_C, matrix.goal)
    return Found(matrix.weight_RC.masked_fill(gone_RC, 0), seconds=time.perf_counter() - started)


def by_magnitude(matrix: Matrix) -> Found:
    """A matrix without its smallest weights; no inputs are asked."""
    started = time.perf_counter()
    gone_RC = magnitude(matrix.weight_RC.float(), matrix.goal)
    return Found(matrix.weight_RC.masked_fill(gone_RC, 0), seconds=time.perf_counter() - started)


def _sent(mine: Found | None, matrix: Matrix, owner: int, crew: TeamCrew) -> Found:
    """The owner's result, on every rank."""
    if crew.size == 1:
        return mine  # type: ignore[return-value]
    facts = crew.team.told_by(owner, mine and (mine.squared_error, mine.damping, mine.seconds))
    weight_RC = mine.weight_RC.contiguous() if mine else torch.empty_like(matrix.weight_RC).contiguous()
    crew.copy_from(weight_RC, owner)
    return Found(weight_RC, *facts)
