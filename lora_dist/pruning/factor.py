"""The factor of a Hessian's inverse, in tiles of fixed size that threads and ranks share.

Which of them works on a tile changes nothing in it, so that any number of threads and ranks makes the same bits.
"""

# Dims: C columns of the weight (inputs of the linear), K columns of a tile, M rows from a tile's first to the last.

from __future__ import annotations

import itertools
import logging

import torch
from torch import Tensor

from lora_dist.errors import LoraDistError
from lora_dist.pruning.crew import ALONE, Crew, deal, spans

log = logging.getLogger(__name__)

TILE = 256
"""Columns that are eliminated together. Fixed, since the shape of a product is what its bits depend on."""
_ROWS = 1024
"""Rows of a panel that are solved for together; fixed too."""
_HIGHEST_DAMPING = 1e4


class HessianError(LoraDistError):
    """A damped Hessian is not positive definite; `damping` is the one that was tried."""

    def __init__(self, damping: float) -> None:
        self.damping = damping
        super().__init__(f"a Hessian is not positive definite with a damping of {damping:g}")

    def __reduce__(self):
        return (HessianError, (self.damping,))


def factor_with_damping(hessian_CC: Tensor, damping: float, name: str, crew: Crew = ALONE) -> tuple[Tensor, float]:
    """`upper_factor` with the damping that was asked for, raised tenfold as often as it takes; and that damping.

    Raises:
        HessianError: no damping helps: the inputs are not finite.
    """
    for power in itertools.count():
        tried = damping * 10**power
        try:
            return upper_factor(hessian_CC, tried, crew), tried
        except HessianError:
            if tried > _HIGHEST_DAMPING or not bool(torch.isfinite(hessian_CC.diagonal()).all()):
                raise
            log.warning("%s: a damping of %g leaves the Hessian indefinite, trying %g", name, tried, 10 * tried)
    raise AssertionError("count never ends")


def upper_factor(hessian_CC: Tensor, damping: float, crew: Crew = ALONE) -> Tensor:
    """The upper Cholesky factor U_CC of (H + d I)^-1, with d = damping * mean(diag H).

    H is reversed in both axes, factored once and inverted as a triangle, so that the inverse of H is never formed
    (half the work, one factorisation that can fail). All of it happens in one copy of H.

    Args:
        hessian_CC: the same on every rank of `crew`; it is left as it is.
        damping: added to the diagonal, as a share of its mean.
        crew: who shares the work; every rank gets the whole factor.
    Raises:
        HessianError: the damped matrix is not positive definite, on every rank.
    Source: Frantar & Alistarh 2023 (arXiv 2301.00774), section 3.3; the reversal follows from J H J = L L^T =>
    H^-1 = (J L^-T J)(J L^-1 J).
    """
    matrix_CC = hessian_CC.flip(0, 1)
    matrix_CC.diagonal().add_(damping * hessian_CC.diagonal().mean())
    if not _cholesky(matrix_CC, crew):
        raise HessianError(damping)
    _invert(matrix_CC, crew)
    _reverse(matrix_CC)
    return matrix_CC.mT


def _cholesky(matrix_CC: Tensor, crew: Crew) -> bool:
    """Put L of L L^T in the lower triangle, of which alone anything is read; whether there is one.

    The block columns are dealt over the ranks. The owner of the next one finishes it and sends it to the others; then
    each rank takes its part out of the columns that are its own.
    """
    tiles = spans(len(matrix_CC), TILE)
    for number, span in enumerate(tiles):
        below = slice(span.start, None)
        panel_MK = matrix_CC[below, span].contiguous()
        if number % crew.size == crew.rank:
            _finish_panel(panel_MK, crew)
        crew.copy_from(panel_MK, number % crew.size)
        if not bool(torch.isfinite(panel_MK.diagonal()).all()):
            return False
        matrix_CC[below, span] = panel_MK

        def take_out(other: int, panel_MK: Tensor = panel_MK, start: int = span.start) -> None:
            columns = tiles[other]
            rows_MK = panel_MK[columns.start - start :]
            matrix_CC[columns.start :, columns].addmm_(rows_MK, rows_MK[: columns.stop - columns.start].T, alpha=-1)

        crew.side_by_side(take_out, [o for o in range(number + 1, len(tiles)) if o % crew.size == crew.rank])
    return True


def _finish_panel(panel_MK: Tensor, crew: Crew) -> None:
    """Make a block column of L of what is left of one of H, in place; of NaN if it is not positive definite."""
    width = panel_MK.shape[1]
    lower_KK, info = torch.linalg.cholesky_ex(panel_MK[:width])
    if int(info):
        panel_MK.fill_(torch.nan)
        return
    panel_MK[:width] = lower_KK

    def solve(rows: slice) -> None:
        part_MK = panel_MK[width:][rows]
        part_MK.copy_(torch.linalg.solve_triangular(lower_KK.mT, part_MK, upper=True, left=False))

    crew.side_by_side(solve, spans(len(panel_MK) - width, _ROWS))


def _invert(matrix_CC: Tensor, crew: Crew) -> None:
    """Make (L^-1)^T of the L in the lower triangle, in place.

    Each block column of the inverse is found by itself, by forward substitution, and laid down above the diagonal while
    L below it is still read.
    """
    columns = spans(len(matrix_CC), TILE)
    owners = deal([(len(columns) - number) ** 2 for number in range(len(columns))], crew.size)
    tiles = crew.side_by_side(lambda span: _inverted(matrix_CC[span, span]), columns)

    def find(number: int) -> None:
        first = columns[number].start
        column_MK = matrix_CC.new_empty(len(matrix_CC) - first, columns[number].stop - first)
        for span, tile_KK in zip(columns[number:], tiles[number:], strict=True):
            rows, above = slice(span.start - first, span.stop - first), slice(0, span.start - first)
            if span.start == first:
                column_MK[rows] = tile_KK
            else:
                known_KK = matrix_CC[span, first : span.start] @ column_MK[above]
                torch.mm(tile_KK, known_KK, out=column_MK[rows]).neg_()
        matrix_CC[columns[number], first:] = column_MK.T

    crew.side_by_side(find, [number for number, owner in enumerate(owners) if owner == crew.rank])
    for span, owner in zip(columns, owners, strict=True):
        matrix_CC[span, : span.start] = 0
        if crew.size > 1:
            rows_KM = matrix_CC[span, span.start :].contiguous()
            crew.copy_from(rows_KM, owner)
            matrix_CC[span, span.start :] = rows_KM


def _inverted(lower_KK: Tensor) -> Tensor:
    eye_KK = torch.eye(len(lower_KK), dtype=lower_KK.dtype, device=lower_KK.device)
    return torch.linalg.solve_triangular(lower_KK, eye_KK, upper=False)


def _reverse(matrix_CC: Tensor) -> None:
    """Reverse a matrix in both axes, in place: the first rows change places with the last, some at a time."""
    size = len(matrix_CC)
    for upper in spans((size + 1) // 2, TILE):
        lower = slice(size - upper.stop, size - upper.start)
        first, last = matrix_CC[upper].flip(0, 1), matrix_CC[lower].flip(0, 1)
        matrix_CC[upper] = last
        matrix_CC[lower] = first
