"""One matrix pruned: SparseGPT, Wanda and magnitude as functions of tensors."""

# Dims: R rows (outputs), C columns (inputs), B columns of a block, S columns of a strip.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_dist.config.pruning import parse_pattern
from lora_dist.pruning.selection import Ranks, smallest, smallest_of_groups, smallest_of_rows

CHUNK_ROWS = 4096
"""Rows that are worked on together. Fixed, since the shape of a product is what its bits depend on; ranks that share a
matrix take whole chunks."""
_STRIP = 32
"""Columns of a block after which the rest of it is brought up to date, in one product instead of 32."""

Goal = float | str
"""A sparsity (share of zeros), or an N:M pattern."""


@dataclass(frozen=True)
class Solved:
    """Chunks of a pruned matrix."""

    chunks: list[Tensor]
    """Weights, [rows, C] each."""
    squared_errors: list[float]
    """For each chunk the sum of e^2, which is tr(dW H dW^T) with the damped H."""


def chunks_of(weight_RC: Tensor) -> list[Tensor]:
    """The rows of a matrix, `CHUNK_ROWS` at a time."""
    return list(weight_RC.split(CHUNK_ROWS))


def whole_groups(columns: int, goal: Goal) -> int:
    """`columns` rounded down to whole groups of the pattern, at least one group."""
    group = parse_pattern(goal)[1] if isinstance(goal, str) else 1
    return max(group, columns // group * group)


def sparsegpt(
    chunks: Sequence[Tensor],
    upper_CC: Tensor,
    goal: Goal,
    *,
    block_size: int = 128,
    rows: int | None = None,
    ranks: Ranks | None = None,
) -> Solved:
    """Set weights to zero one column after the other, each error made good by the columns to its right.

    Args:
        chunks: chunks of rows of the weight, [rows, C], in float32 or float64; they are left as they are.
        upper_CC: upper Cholesky factor of the inverse of the damped Hessian.
        goal: a share of every block of columns, or N zeros of every M neighbours in a row.
        block_size: columns among which a share is chosen at once.
        rows: of the whole matrix, where other ranks hold some of it.
        ranks: those ranks, for the threshold that all of them share.
    Source: Frantar & Alistarh 2023 (arXiv 2301.00774), algorithm 1.
    """
    work = [chunk.T.contiguous() for chunk in chunks]  # a column is then one run of memory
    rows = rows if rows is not None else sum(chunk.shape[0] for chunk in chunks)
    block_size = whole_groups(block_size, goal)
    errors = [0.0] * len(work)
    for start in range(0, upper_CC.shape[0], block_size):
        block = slice(start, min(start + block_size, upper_CC.shape[0]))
        upper_BB, after_BC = upper_CC[block, block], upper_CC[block, block.stop :]
        gone = _chosen(work, block, upper_BB, goal, rows, ranks)
        for index, weights_CR in enumerate(work):
            errors_BR = _prune_block(weights_CR[block], upper_BB, goal, gone[index] if gone else None)
            weights_CR[block.stop :].addmm_(after_BC.T, errors_BR, alpha=-1)
            errors[index] += float(errors_BR.square().sum(dtype=torch.float64))
    return Solved([weights_CR.T for weights_CR in work], errors)


def _chosen(
    work: Sequence[Tensor], block: slice, upper_BB: Tensor, goal: Goal, rows: int, ranks: Ranks | None
) -> list[Tensor] | None:
    """For a share: what goes of this block, [B, R] for each chunk of rows. A pattern is chosen on the way."""
    if isinstance(goal, str):
        return None
    scale_B1 = upper_BB.diagonal()[:, None]
    scores = [(weights_CR[block] / scale_B1).square_().T for weights_CR in work]
    return [chosen.T.contiguous() for chosen in smallest(scores, goal, rows * len(upper_BB), ranks)]


def _prune_block(weights_BR: Tensor, upper_BB: Tensor, goal: Goal, gone_BR: Tensor | None) -> Tensor:
    """Prune a block in place; returns the errors E_BR that the columns after it have to make good."""
    errors_BR = torch.empty_like(weights_BR)
    diagonal = upper_BB.diagonal().tolist()
    group = parse_pattern(goal) if isinstance(goal, str) else None
    for strip in _strips(len(upper_BB), whole_groups(_STRIP, goal)):
        for column in range(strip.start, strip.stop):
            if group is not None and column % group[1] == 0:
                here = slice(column, column + group[1])
                going = _of_group(weights_BR[here], upper_BB.diagonal()[here], group)
            going_R = gone_BR[column] if gone_BR is not None else going[column % group[1]]  # type: ignore[index]
            error_R = errors_BR[column]
            torch.mul(weights_BR[column], going_R, out=error_R)
            error_R /= diagonal[column]
            weights_BR[column].masked_fill_(going_R, 0.0)
            weights_BR[column + 1 : strip.stop].addr_(upper_BB[column, column + 1 : strip.stop], error_R, alpha=-1)
        weights_BR[strip.stop :].addmm_(upper_BB[strip, strip.stop :].T, errors_BR[strip], alpha=-1)
    return errors_BR


def _strips(columns: int, width: int) -> Iterator[slice]:
    return (slice(start, min(start + width, columns)) for start in range(0, columns, width))


def _of_group(weights_MR: Tensor, scale_M: Tensor, group: tuple[int, int]) -> Tensor:
    """What goes of one group of columns as it stands now, [M, R]."""
    scores_RM = (weights_MR / scale_M[:, None]).square_().T
    return smallest_of_groups(scores_RM, *group).T


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
