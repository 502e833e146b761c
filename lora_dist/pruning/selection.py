"""Which weights go: the smallest scores of a matrix, of each row, or of each group of M, ties by position.

Scores are not negative, so their bits as integers are in the order of their values: the k-th smallest is found exactly
by counting, 16 bits at a time, and counts add up over ranks without rounding.
"""

# Dims: R rows (outputs), C columns (inputs), B columns of a block, G groups.

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

_DIGIT_BITS = 16
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


class Ranks(Protocol):
    """Counts that have to be known over all ranks that hold rows of one matrix."""

    def add_up(self, counts: Tensor) -> Tensor:
        """The sum of every rank's counts."""

    def before(self, counts: Tensor) -> Tensor:
        """For each of this rank's chunks of rows the sum of the counts of all chunks above it, over all ranks."""


class Alone:
    """All rows are here."""

    def add_up(self, counts: Tensor) -> Tensor:
        """See `Ranks.add_up`."""
        return counts

    def before(self, counts: Tensor) -> Tensor:
        """See `Ranks.before`."""
        return counts.cumsum(0) - counts


def count_of(sparsity: float, weights: int) -> int:
    """How many of so many weights are set to zero."""
    return min(weights, int(sparsity * weights + 0.5))


def smallest(scores: Sequence[Tensor], sparsity: float, weights: int, ranks: Ranks | None = None) -> list[Tensor]:
    """The smallest scores over chunks of rows of one matrix, exactly `count_of(sparsity, weights)` of them.

    Args:
        scores: [rows, columns] for each chunk that this rank has, in the order of its rows; not negative.
        sparsity: share that is chosen.
        weights: of the matrix (or its block of columns) over all chunks of all ranks.
        ranks: those that hold the other chunks.
    Returns:
        Booleans of the same shapes, true where chosen. Of equal scores the first in row-major order are.
    """
    ranks = ranks or Alone()
    count = count_of(sparsity, weights)
    if count in (0, weights):
        return [torch.full_like(chunk, bool(count), dtype=torch.bool) for chunk in scores]
    bits = [chunk.contiguous().view(_INTEGERS[chunk.dtype]) for chunk in scores]
    threshold, below = _kth(bits, count, ranks)
    equal = [chunk == threshold for chunk in bits]
    here = torch.stack([chunk.sum() for chunk in equal]) if equal else torch.zeros(0, dtype=torch.int64)
    wanted = (count - below - ranks.before(here)).tolist()
    return [
        (chunk < threshold) | _first(same, int(most)) for chunk, same, most in zip(bits, equal, wanted, strict=True)
    ]


def _kth(bits: Sequence[Tensor], count: int, ranks: Ranks) -> tuple[int, int]:
    """The `count`-th smallest integer over all chunks of all ranks, and how many are below it."""
    width = 8 * (bits[0].element_size() if bits else 4)
    prefix = below = 0
    for shift in range(width - _DIGIT_BITS, -1, -_DIGIT_BITS):
        counts = torch.zeros(2**_DIGIT_BITS, dtype=torch.int64)
        for chunk in bits:
            digits = (
                chunk.flatten() if shift + _DIGIT_BITS == width else chunk[(chunk >> (shift + _DIGIT_BITS)) == prefix]
            )
            counts += torch.bincount((digits >> shift) & (2**_DIGIT_BITS - 1), minlength=2**_DIGIT_BITS).cpu()
        up_to = ranks.add_up(counts).cumsum(0)
        digit = int(torch.searchsorted(up_to, count - below))
        below += int(up_to[digit - 1]) if digit else 0
        prefix = (prefix << _DIGIT_BITS) | digit
    return prefix, below


def _first(chosen_RB: Tensor, most: int) -> Tensor:
    """The first `most` of the true entries, in row-major order."""
    if most <= 0:
        return torch.zeros_like(chosen_RB)
    counted = chosen_RB.flatten().cumsum(0, dtype=torch.int32).view_as(chosen_RB)
    return chosen_RB & (counted <= most)


def smallest_of_rows(scores_RC: Tensor, sparsity: float) -> Tensor:
    """The smallest scores of each row, the same number in every row; of equal ones the first. True where chosen."""
    return _lowest(scores_RC, count_of(sparsity, scores_RC.shape[1]))


def smallest_of_groups(scores_RC: Tensor, zeros: int, group: int) -> Tensor:
    """The `zeros` smallest scores of each `group` neighbouring columns of a row; of equal ones the first.

    Raises:
        ValueError: the columns are not whole groups.
    """
    rows, columns = scores_RC.shape
    if columns % group:
        raise ValueError(f"{columns} columns are not whole groups of {group}")
    return _lowest(scores_RC.reshape(rows * columns // group, group), zeros).reshape(rows, columns)


def _lowest(scores_GM: Tensor, count: int) -> Tensor:
    order = scores_GM.sort(dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(scores_GM, dtype=torch.bool).scatter_(1, order, value=True)
