"""Which weights go: the smallest scores of a matrix, of each row, or of each group of M, ties by position.

Scores are not negative, so their bits as integers are in the order of their values: the k-th smallest is found exactly
by counting, 11 bits at a time, and counts add up over ranks without rounding.
"""

# Dims: R rows (outputs), C columns (inputs), B columns of a block, G groups, M members of a group.

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lora_dist.pruning.crew import ALONE, Crew

_DIGIT_BITS = 11
_COMPARED_IN_PAIRS = 8
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def count_of(sparsity: float, weights: int) -> int:
    """How many of so many weights are set to zero."""
    return min(weights, int(sparsity * weights + 0.5))


def smallest(
    scores: Sequence[Tensor], sparsity: float, weights: int, crew: Crew = ALONE, chunks: int | None = None
) -> list[Tensor]:
    """The smallest scores over chunks of rows of one matrix, exactly `count_of(sparsity, weights)` of them.

    Args:
        scores: [rows, columns] for each chunk that this rank has, in the order of its rows; not negative.
        sparsity: share that is chosen.
        weights: of the matrix (or its block of columns) over all chunks of all ranks.
        crew: the ranks that hold the chunks, in turns.
        chunks: how many there are over all ranks, if they are not all here.
    Returns:
        Booleans of the same shapes, true where chosen. Of equal scores the first in row-major order are.
    """
    count = count_of(sparsity, weights)
    if count in (0, weights):
        return [torch.full_like(chunk, bool(count), dtype=torch.bool) for chunk in scores]
    bits = [chunk.contiguous().view(_INTEGERS[chunk.dtype]) for chunk in scores]
    threshold, first_equal = _kth(bits, count, crew, len(scores) if chunks is None else chunks)

    def choose(index: int) -> Tensor:
        return (bits[index] < threshold) | _first(bits[index] == threshold, first_equal[index])

    return crew.side_by_side(choose, range(len(bits)))


def _kth(bits: Sequence[Tensor], count: int, crew: Crew, chunks: int) -> tuple[int, list[int]]:
    """The `count`-th smallest integer over the chunks of all ranks; how many equal to it each of mine is to give."""
    prefix, known = 0, 8 * (bits[0].element_size() if bits else 4)
    while known:
        width = min(_DIGIT_BITS, known)
        digits_in = partial(_histogram, known=known, prefix=prefix, width=width)
        counts = torch.zeros(chunks, 2**width, dtype=torch.int64)
        for number, found in zip(range(crew.rank, chunks, crew.size), crew.side_by_side(digits_in, bits), strict=True):
            counts[number] = found
        crew.add_up(counts)
        up_to = counts.sum(0).cumsum(0)
        digit = int(torch.searchsorted(up_to, count))
        count -= int(up_to[digit - 1]) if digit else 0
        prefix, known = (prefix << width) | digit, known - width
    equal = counts[:, digit]
    return prefix, (count - (equal.cumsum(0) - equal))[crew.rank :: crew.size].tolist()


def _histogram(chunk: Tensor, known: int, prefix: int, width: int) -> Tensor:
    """How often each value of the `width` bits below bit `known` is there, where those above are `prefix`."""
    digits = chunk.flatten() if known == 8 * chunk.element_size() else chunk[(chunk >> known) == prefix]
    return torch.bincount((digits >> (known - width)) & (2**width - 1), minlength=2**width)


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
    scores_MG = scores_RC.reshape(rows * columns // group, group).T
    return smallest_of_group(scores_MG, zeros).T.reshape(rows, columns)


def smallest_of_group(scores_MG: Tensor, zeros: int) -> Tensor:
    """The `zeros` smallest of M scores, for each of G groups; of equal ones the first.

    In a small group every pair is compared, which is several times faster than to sort it.
    """
    members = len(scores_MG)
    if members > _COMPARED_IN_PAIRS:
        return _lowest(scores_MG.T, zeros).T
    # Of a pair, either the later one is smaller or the earlier one goes before it.
    later_MM = torch.ones(members, members, dtype=torch.bool, device=scores_MG.device).tril_(-1)
    overtakes_MMG = (scores_MG[:, None] < scores_MG[None]) & later_MM[:, :, None]
    earlier_M1 = torch.arange(members, dtype=torch.int8, device=scores_MG.device)[:, None]
    before_MG = earlier_M1 - overtakes_MMG.sum(1, dtype=torch.int8) + overtakes_MMG.sum(0, dtype=torch.int8)
    return before_MG < zeros


def _lowest(scores_GM: Tensor, count: int) -> Tensor:
    order = scores_GM.sort(dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(scores_GM, dtype=torch.bool).scatter_(1, order, value=True)
