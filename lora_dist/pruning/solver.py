"""One matrix pruned: SparseGPT, Wanda and magnitude as functions of tensors."""

# Dims: R rows (outputs), C columns (inputs), B columns of a block, S columns of a strip, M members of a group.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lora_dist.config.pruning import parse_pattern
from lora_dist.pruning.crew import ALONE, Crew, spans
from lora_dist.pruning.selection import smallest, smallest_of_group, smallest_of_groups, smallest_of_rows

CHUNK_ROWS = {"cpu": 1024, "cuda": 4096}
"""Rows that are worked on together. Fixed, since the shape of a product is what its bits depend on; threads and ranks
that share a matrix take whole chunks. An accelerator wants more of them at a time."""
_STRIP = 32
"""Columns of a block after which the rest of it is brought up to date, in one product instead of 32."""

Goal = float | str
"""A sparsity (share of zeros), or an N:M pattern."""


@dataclass(frozen=True)
class Solved:
    """A pruned matrix."""

    weight_RC: Tensor  # noqa: N815
    """In the dtype that it had."""
    squared_error: float
    """The sum of e^2 over its weights, which is tr(dW H dW^T) with the damped H."""


def whole_groups(columns: int, goal: Goal) -> int:
    """`columns` rounded down to whole groups of the pattern, at least one group."""
    group = parse_pattern(goal)[1] if isinstance(goal, str) else 1
    return max(group, columns // group * group)


def sparsegpt(
    weight_RC: Tensor,
    upper_CC: Tensor,
    goal: Goal,
    *,
    dead_C: Tensor | None = None,
    block_size: int = 128,
    crew: Crew = ALONE,
) -> Solved:
    """Set weights to zero one column after the other, each error made good by the columns to its right.

    Args:
        weight_RC: in any floating dtype, the same on every rank of `crew`; it is left as it is.
        upper_CC: upper Cholesky factor of the inverse of the damped Hessian; computed is in its dtype.
        goal: a share of every block of columns, or N zeros of every M neighbours in a row.
        dead_C: columns that are zero from the start.
        block_size: columns among which a share is chosen at once.
        crew: who shares the rows; every rank gets the whole matrix.
    Source: Frantar & Alistarh 2023 (arXiv 2301.00774), algorithm 1.
    """
    chunks = weight_RC.split(CHUNK_ROWS[weight_RC.device.type])
    mine = range(crew.rank, len(chunks), crew.size)
    # Transposed, since a column is then one run of memory.
    work = crew.side_by_side(lambda number: chunks[number].to(upper_CC.dtype).T.contiguous(), mine)
    if dead_C is not None:
        for weights_CR in work:
            weights_CR[dead_C] = 0
    errors = torch.zeros(len(chunks), dtype=torch.float64)
    for number, error in zip(mine, _prune(work, upper_CC, goal, weight_RC.shape[0], block_size, crew), strict=True):
        errors[number] = error
    crew.add_up(errors)
    done_RC = torch.empty_like(weight_RC, memory_format=torch.contiguous_format)
    for number, chunk_RC in enumerate(done_RC.split(CHUNK_ROWS[weight_RC.device.type])):
        if number in mine:
            chunk_RC.copy_(work[mine.index(number)].T)
        crew.copy_from(chunk_RC, number % crew.size)
    return Solved(done_RC, float(errors.sum()))


def _prune(work: Sequence[Tensor], upper_CC: Tensor, goal: Goal, rows: int, block_size: int, crew: Crew) -> list[float]:
    """Prune chunks [C, R] of a matrix with so many rows, in place; their sums of squared errors.

    What goes of the next block is counted over the ranks while the columns after it are brought up to date.
    """
    errors = [0.0] * len(work)
    blocks = spans(len(upper_CC), whole_groups(block_size, goal))
    gone = _chosen(work, blocks[0], upper_CC, goal, rows, crew)
    for block, following in zip(blocks, [*blocks[1:], slice(len(upper_CC), len(upper_CC))], strict=True):
        step = _Step.of(block, following, upper_CC)
        lost = crew.side_by_side(lambda pair, step=step: step.prune(*pair, goal), list(zip(work, gone, strict=True)))
        chosen = crew.meanwhile(partial(_chosen, work, following, upper_CC, goal, rows, crew))
        squares = crew.side_by_side(lambda pair, step=step: step.catch_up(*pair), list(zip(work, lost, strict=True)))
        errors = [error + more for error, more in zip(errors, squares, strict=True)]
        gone = chosen()
    return errors


def _chosen(
    work: Sequence[Tensor], block: slice, upper_CC: Tensor, goal: Goal, rows: int, crew: Crew
) -> Sequence[Tensor | None]:
    """For a share: what goes of this block, [R, B] for each chunk of rows. A pattern is chosen on the way."""
    if isinstance(goal, str) or block.start == block.stop:
        return [None] * len(work)
    scale_B1 = upper_CC[block, block].diagonal()[:, None]
    scores = crew.side_by_side(lambda weights_CR: (weights_CR[block] / scale_B1).square_().T, work)
    return smallest(scores, goal, rows * len(scale_B1), crew, -(-rows // CHUNK_ROWS[scale_B1.device.type]))


@dataclass(frozen=True)
class _Step:
    """A block of columns on its way out, as far as no chunk of rows matters."""

    block: slice
    following: slice
    """The columns after it that are pruned next."""
    diagonal_B1: Tensor  # noqa: N815
    scaled_BC: Tensor  # noqa: N815
    """Rows of the factor from the block's first column on, divided by the diagonal once for all: errors are then kept
    as they are before that division."""

    @classmethod
    def of(cls, block: slice, following: slice, upper_CC: Tensor) -> _Step:
        """The step of a block, by the factor."""
        diagonal_B1 = upper_CC[block, block].diagonal()[:, None]
        return cls(block, following, diagonal_B1, upper_CC[block, block.start :] / diagonal_B1)

    def prune(self, weights_CR: Tensor, gone_RB: Tensor | None, goal: Goal) -> Tensor:
        """Prune the block of a chunk and bring the next one up to date; what was lost, [B, R]."""
        lost_BR = _prune_block(weights_CR[self.block], self.scaled_BC, self.diagonal_B1, goal, gone_RB)
        self._make_good(weights_CR, self.following, lost_BR)
        return lost_BR

    def catch_up(self, weights_CR: Tensor, lost_BR: Tensor) -> float:
        """Bring the columns after the next block up to date; the sum of e^2 over this one."""
        self._make_good(weights_CR, slice(self.following.stop, len(weights_CR)), lost_BR)
        errors_B = torch.linalg.vector_norm(lost_BR, dim=1).double() / self.diagonal_B1[:, 0].double()
        return float(errors_B.square().sum())

    def _make_good(self, weights_CR: Tensor, columns: slice, lost_BR: Tensor) -> None:
        factor_BC = self.scaled_BC[:, columns.start - self.block.start : columns.stop - self.block.start]
        weights_CR[columns].addmm_(factor_BC.T, lost_BR, alpha=-1)


def _prune_block(
    weights_BR: Tensor, scaled_BC: Tensor, diagonal_B1: Tensor, goal: Goal, gone_RB: Tensor | None
) -> Tensor:
    """Prune a block in place; returns what the weights that went still were then, [B, R], and zeros elsewhere."""
    lost_BR = torch.empty_like(weights_BR)
    gone_BR = torch.empty_like(weights_BR)  # numbers: a product with booleans would turn them into some each time
    if gone_RB is not None:
        gone_BR.copy_(gone_RB.T)
    weights, lost, gone, scaled = (matrix.unbind() for matrix in (weights_BR, lost_BR, gone_BR, scaled_BC))
    group = parse_pattern(goal) if isinstance(goal, str) else None
    for strip in spans(len(lost), whole_groups(_STRIP, goal)):
        for column in range(strip.start, strip.stop):
            if group is not None and column % group[1] == 0:
                here = slice(column, column + group[1])
                gone_BR[here] = smallest_of_group((weights_BR[here] / diagonal_B1[here]).square_(), group[0])
            torch.mul(weights[column], gone[column], out=lost[column])
            rest = slice(column + 1, strip.stop)
            weights_BR[rest].addr_(scaled[column][rest], lost[column], alpha=-1)
        weights_BR[strip.stop :].addmm_(scaled_BC[strip, strip.stop : len(lost)].T, lost_BR[strip], alpha=-1)
    weights_BR.sub_(lost_BR)  # itself, where it goes
    return lost_BR


def wanda(weight_RC: Tensor, norm_C: Tensor, goal: Goal) -> Tensor:
    """What Wanda sets to zero: the smallest |weight| x input norm of each output row. True where it goes.

    Source: Sun et al. 2023 (arXiv 2306.11695), equation 1 and algorithm 1.
    """
    scores_RC = weight_RC.abs() * norm_C
    if isinstance(goal, str):
        return smallest_of_groups(scores_RC, *parse_pattern(goal))
    return smallest_of_rows(scores_RC, goal)


def magnitude(weight_RC: Tensor, goal: Goal) -> Tensor:
    """What has the smallest |weight| of the whole matrix, or of each group. True where it goes."""
    scores_RC = weight_RC.abs()
    if isinstance(goal, str):
        return smallest_of_groups(scores_RC, *parse_pattern(goal))
    return smallest([scores_RC], goal, scores_RC.numel())[0]
