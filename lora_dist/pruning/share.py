"""Who does what on which rank, so that any number of ranks gives the same bytes.

Every rank sends its own samples through the block and adds up its own moments of the inputs. Each group's moments are
summed on one owner, which factors them alone and solves the group's matrices; the results are copied to the others, as
replicas that compute the same are never relied on. A matrix of several chunks of rows is solved by all ranks, each its
own chunks, with thresholds counted over all of them.
"""

# Dims: R rows (outputs), C columns (inputs).

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_dist.config.pruning import PruneSection
from lora_dist.errors import LoraDistError, ModelError
from lora_dist.pruning.hessian import Gram, SquareSums, dead_columns, factor_with_damping
from lora_dist.pruning.selection import Ranks
from lora_dist.pruning.solver import Goal, chunks_of, magnitude, sparsegpt, wanda
from lora_dist.world import Team

Moments = Gram | SquareSums
SideBySide = Callable[[Callable[[int], None], Sequence[int]], list[None]]


@dataclass(frozen=True, eq=False)
class Matrix:
    """One linear to be pruned."""

    name: str
    goal: Goal
    weight_RC: Tensor  # noqa: N815
    """As it is on the disk, outputs x inputs."""

    def is_shared(self, ranks: int) -> bool:
        """Whether its rows are dealt over so many ranks."""
        return ranks > 1 and len(chunks_of(self.weight_RC)) > 1


@dataclass
class Found:
    """What became of one matrix."""

    weight_RC: Tensor  # noqa: N815
    """In the dtype that it had."""
    squared_error: float | None = None
    """Sum of e^2 over its weights, sparsegpt only."""
    damping: float | None = None
    seconds: float = 0.0


@dataclass
class _Factor:
    """What an owner makes of a group's moments."""

    upper_CC: Tensor  # noqa: N815
    dead_C: Tensor  # noqa: N815
    damping: float
    seconds: float = 0.0
    """Not yet counted with a matrix of the group."""

    def take_seconds(self) -> float:
        """The time it took, once: it goes to the first matrix of its group."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def _cost(group: Sequence[Matrix], size: int) -> int:
    """Multiplications, about: the factor's, and those of the matrices that its owner solves alone."""
    columns = group[0].weight_RC.shape[1]
    rows = sum(matrix.weight_RC.shape[0] for matrix in group if not matrix.is_shared(size))
    return columns**3 + rows * columns**2


def owners_of(groups: Sequence[Sequence[Matrix]], size: int) -> list[int]:
    """The rank that factors and solves each group: the most work first, each to the rank that has the least."""
    costs = [_cost(group, size) for group in groups]
    load, owners = [0] * size, [0] * len(groups)
    for index in sorted(range(len(groups)), key=lambda index: -costs[index]):
        owners[index] = load.index(min(load))
        load[owners[index]] += costs[index]
    return owners


def solve_block(
    groups: Sequence[Sequence[Matrix]],
    moments: list[Moments | None],
    section: PruneSection,
    samples: int,
    team: Team,
    *,
    side_by_side: SideBySide | None = None,
) -> dict[str, Found]:
    """Prune the matrices of one block on the ranks of `team`; every rank gets all results.

    Args:
        groups: matrices that share an input, in the same order on every rank.
        moments: of each group's input over this rank's samples; each is let go of as soon as it is spent.
        samples: over all ranks.
        side_by_side: does something for several items at a time.
    Raises:
        HessianError: no damping makes a Hessian positive definite.
        ModelError: a linear was given nothing but zeros, or numbers that are not finite.
    """
    owners = owners_of(groups, team.world.size)
    found, factors = _solve_mine(groups, moments, owners, section, samples, team, side_by_side or _in_turn)
    for index, group in enumerate(groups):
        shared = [matrix for matrix in group if section.kind == "sparsegpt" and matrix.is_shared(team.world.size)]
        factor = _copied(factors.pop(index, None), shared[0], owners[index], team) if shared else None
        for matrix in group:
            if factor is not None and matrix in shared:
                found[matrix.name] = _solve_together(matrix, factor, section, team)
            else:
                found[matrix.name] = _sent(found.get(matrix.name), matrix, owners[index], team)
    return found


def _solve_mine(
    groups: Sequence[Sequence[Matrix]],
    moments: list[Moments | None],
    owners: Sequence[int],
    section: PruneSection,
    samples: int,
    team: Team,
    side_by_side: SideBySide,
) -> tuple[dict[str, Found], dict[int, _Factor]]:
    """What this rank owns, the most work first: its matrices, and the factors of those whose rows are shared."""
    rank, size = team.world.rank, team.world.size
    for index, owner in enumerate(owners):
        team.add_up(moments[index].total, owner)
        if owner != rank:
            moments[index] = None
    found: dict[str, Found] = {}
    factors: dict[int, _Factor] = {}

    def solve(index: int) -> None:
        own, moments[index] = moments[index], None
        factor, solved = _solve_alone(groups[index], own, section, samples, size)
        found.update(solved)
        if factor is not None:
            factors[index] = factor

    mine = [index for index, owner in enumerate(owners) if owner == rank]
    error: Exception | None = None
    try:
        side_by_side(solve, sorted(mine, key=lambda index: -_cost(groups[index], size)))
    except (LoraDistError, RuntimeError) as raised:
        error = raised
    team.raise_together(error)
    return found, factors


def _in_turn(action: Callable[[int], None], items: Sequence[int]) -> list[None]:
    return [action(item) for item in items]


def _solve_alone(
    group: Sequence[Matrix], moments: Moments, section: PruneSection, samples: int, size: int
) -> tuple[_Factor | None, dict[str, Found]]:
    """The owner's part: the group's factor where rows are shared, and the matrices that are its alone."""
    if isinstance(moments, SquareSums):
        return None, {matrix.name: _by_norms(matrix, moments, samples) for matrix in group}
    factor = _factor(moments, section, samples, group[0].name)
    alone = [matrix for matrix in group if not matrix.is_shared(size)]
    found = {matrix.name: _solve(matrix, factor, section) for matrix in alone}
    return factor if len(alone) < len(group) else None, found


def _factor(moments: Gram, section: PruneSection, samples: int, name: str) -> _Factor:
    started = time.perf_counter()
    hessian_CC = moments.spend(samples)
    dead_C = dead_columns(hessian_CC)
    _refuse_unusable(hessian_CC.diagonal(), name)
    hessian_CC.diagonal()[dead_C] = 1
    upper_CC, damping = factor_with_damping(hessian_CC, section.damping, name)
    return _Factor(upper_CC, dead_C, damping, time.perf_counter() - started)


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


def _solve(matrix: Matrix, factor: _Factor, section: PruneSection) -> Found:
    started = time.perf_counter()
    weight_RC = matrix.weight_RC.float()
    weight_RC[:, factor.dead_C] = 0
    solved = sparsegpt(chunks_of(weight_RC), factor.upper_CC, matrix.goal, block_size=section.block_size)
    done_RC = torch.cat(solved.chunks).to(matrix.weight_RC.dtype)
    seconds = factor.take_seconds() + time.perf_counter() - started
    return Found(done_RC, sum(solved.squared_errors), factor.damping, seconds)


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


def _sent(mine: Found | None, matrix: Matrix, owner: int, team: Team) -> Found:
    """The owner's result, on every rank."""
    if team.world.size == 1:
        return mine  # type: ignore[return-value]
    facts = team.told_by(owner, mine and (mine.squared_error, mine.damping, mine.seconds))
    weight_RC = mine.weight_RC.contiguous() if mine else torch.empty_like(matrix.weight_RC).contiguous()
    _copy(weight_RC, owner, team)
    return Found(weight_RC, *facts)


def _copied(mine: _Factor | None, matrix: Matrix, owner: int, team: Team) -> _Factor:
    """The owner's factor, on every rank."""
    if team.world.size == 1:
        return mine  # type: ignore[return-value]
    damping, seconds = team.told_by(owner, mine and (mine.damping, mine.seconds))
    columns, device = matrix.weight_RC.shape[1], matrix.weight_RC.device
    # Sent by columns, as `upper_factor` lays them: products of other layouts may round otherwise.
    columns_CC = mine.upper_CC.mT.contiguous() if mine else torch.empty(columns, columns, device=device)
    dead_C = mine.dead_C.to(torch.uint8) if mine else torch.empty(columns, dtype=torch.uint8, device=device)
    _copy(columns_CC, owner, team)
    _copy(dead_C, owner, team)
    return _Factor(columns_CC.mT, dead_C.bool(), damping, seconds)


def _copy(tensor: Tensor, owner: int, team: Team) -> None:
    """As bytes: not every backend knows every dtype."""
    team.copy_from(tensor.view(torch.uint8), owner)


class _Counted(Ranks):
    """Counts over the ranks that share a matrix; chunk c is rank c % size's."""

    def __init__(self, team: Team, chunks: int) -> None:
        self.team, self.chunks = team, chunks

    def add_up(self, counts: Tensor) -> Tensor:
        """See `Ranks.add_up`."""
        self.team.add_up(counts)
        return counts

    def before(self, counts: Tensor) -> Tensor:
        """See `Ranks.before`."""
        mine = slice(self.team.world.rank, None, self.team.world.size)
        every = torch.zeros(self.chunks, dtype=torch.int64)
        every[mine] = counts.cpu()
        self.team.add_up(every)
        return (every.cumsum(0) - every)[mine].to(counts.device)


def _solve_together(matrix: Matrix, factor: _Factor, section: PruneSection, team: Team) -> Found:
    """Each rank prunes its own chunks of rows, and gets those of the others."""
    started = time.perf_counter()
    world, dtype = team.world, matrix.weight_RC.dtype
    whole = chunks_of(matrix.weight_RC)
    mine = [chunk.float() for chunk in whole[world.rank :: world.size]]
    for chunk in mine:
        chunk[:, factor.dead_C] = 0
    solved = sparsegpt(
        mine,
        factor.upper_CC,
        matrix.goal,
        block_size=section.block_size,
        rows=matrix.weight_RC.shape[0],
        ranks=_Counted(team, len(whole)),
    )
    done = [torch.empty_like(chunk).contiguous() for chunk in whole]
    done[world.rank :: world.size] = [chunk.to(dtype).contiguous() for chunk in solved.chunks]
    for number, chunk in enumerate(done):
        _copy(chunk, number % world.size, team)
    errors = [0.0] * len(whole)
    for rank, theirs in enumerate(team.gather(solved.squared_errors)):
        errors[rank :: world.size] = theirs
    seconds = factor.take_seconds() + time.perf_counter() - started
    return Found(torch.cat(done), sum(errors), factor.damping, seconds)
