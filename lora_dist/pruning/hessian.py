"""What a linear's inputs say about its weights: their second moments, and the factor of the inverse.

A Gram matrix is taken in float32 for each forward pass and added up in float64. Sums of float32 numbers are then, but
for entries some 2^22 times smaller than the largest, free of rounding: they do not depend on which rank added what.
"""

# Dims: T tokens, C columns of the weight (inputs of the linear), P columns of a panel.

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from lora_dist.errors import LoraDistError

log = logging.getLogger(__name__)

PANEL = 512
"""Columns of a panel. Fixed, since the shape of a product is what its bits depend on."""
_INVERT_DIRECTLY = 256
_HIGHEST_DAMPING = 1e4


class HessianError(LoraDistError):
    """A damped Hessian is not positive definite; `damping` is the one that was tried."""

    def __init__(self, damping: float) -> None:
        self.damping = damping
        super().__init__(f"a Hessian is not positive definite with a damping of {damping:g}")

    def __reduce__(self):
        return (HessianError, (self.damping,))


class Gram:
    """The sum of x x^T over tokens: its upper triangle, in panels of rows, in one float64 tensor."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self.columns = columns
        self._spans = [(start, min(start + PANEL, columns)) for start in range(0, columns, PANEL)]
        sizes = [(stop - start) * (columns - start) for start, stop in self._spans]
        self.total = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        """What is added up over ranks."""
        self._panels = [
            part.view(stop - start, columns - start)
            for part, (start, stop) in zip(self.total.split(sizes), self._spans, strict=True)
        ]
        self._lock = threading.Lock()

    def add(self, x: Tensor) -> None:
        """Add the tokens of one forward pass: [..., C], any number of tokens. Several threads may."""
        x_TC = x.reshape(-1, self.columns)
        with _exact_products(x_TC):
            x_TC = x_TC.float()
            for panel, (start, stop) in zip(self._panels, self._spans, strict=True):
                product = x_TC[:, start:stop].T @ x_TC[:, start:]
                with self._lock:
                    panel += product

    def hessian(self, samples: int) -> Tensor:
        """H_CC = 2/n sum x x^T in float32, whole."""
        hessian_CC = torch.empty(self.columns, self.columns, device=self.total.device)
        for panel, (start, stop) in zip(self._panels, self._spans, strict=True):
            scaled = panel * (2 / samples)
            hessian_CC[start:stop, start:] = scaled
            hessian_CC[stop:, start:stop] = scaled[:, stop - start :].T
        return hessian_CC

    def spend(self, samples: int) -> Tensor:
        """`hessian`, letting go of the sum: whoever still holds this object holds nothing large."""
        hessian_CC = self.hessian(samples)
        self.total = self.total.new_empty(0)
        self._panels = []
        return hessian_CC


class SquareSums:
    """The sum of x^2 over tokens for each column, in float64: all that Wanda needs."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self.columns = columns
        self.total = torch.zeros(columns, dtype=torch.float64, device=device)
        self._lock = threading.Lock()

    def add(self, x: Tensor) -> None:
        """Add the tokens of one forward pass: [..., C]. Several threads may."""
        sums_C = x.reshape(-1, self.columns).float().square().sum(0)
        with self._lock:
            self.total += sums_C


@contextlib.contextmanager
def _exact_products(x: Tensor) -> Iterator[None]:
    """Products of 16-bit numbers are exact in TF32 (and added up in float32), at several times the speed."""
    is_short = x.dtype in (torch.bfloat16, torch.float16) and x.device.type == "cuda"
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = before or is_short
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def dead_columns(hessian_CC: Tensor) -> Tensor:
    """Columns whose input was always zero: their weights do nothing, and the Hessian says nothing of them."""
    return hessian_CC.diagonal() == 0


def upper_factor(hessian_CC: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor U_CC of (H + d I)^-1, with d = damping * mean(diag H).

    H is reversed in both axes, factored once and inverted as a triangle, so that the inverse of H is never formed
    (half the work, one factorisation that can fail). Its columns lie in one run of memory each, on every device and
    rank: bits of a product may depend on that too.

    Raises:
        HessianError: the damped matrix is not positive definite; its `damping` is the one that was tried.
    Source: Frantar & Alistarh 2023 (arXiv 2301.00774), section 3.3; the reversal follows from J H J = L L^T =>
    H^-1 = (J L^-T J)(J L^-1 J).
    """
    factor_CC = hessian_CC.flip(0, 1)
    factor_CC.diagonal().add_(damping * hessian_CC.diagonal().mean())
    factor_CC, info = _cholesky(factor_CC)
    if int(info) or not bool(torch.isfinite(factor_CC.diagonal()).all()):
        raise HessianError(damping)
    _invert_triangle(factor_CC)
    _reverse(factor_CC)
    return factor_CC.mT.contiguous().mT


def _cholesky(matrix_CC: Tensor) -> tuple[Tensor, Tensor]:
    """The lower Cholesky factor and LAPACK's verdict; on a CPU in the place of the matrix, which may be a GiB.

    LAPACK wants columns in one run of memory: those of the transpose are, and of a symmetric matrix that is the same.
    """
    if matrix_CC.device.type != "cpu":
        return torch.linalg.cholesky_ex(matrix_CC)
    columns_CC, info = matrix_CC.mT, torch.empty((), dtype=torch.int32)
    torch.linalg.cholesky_ex(columns_CC, out=(columns_CC, info))
    return columns_CC, info


def _reverse(matrix_CC: Tensor) -> None:
    """Reverse a matrix in both axes, in place: the first rows change places with the last, a panel at a time."""
    size = matrix_CC.shape[0]
    for start in range(0, (size + 1) // 2, PANEL):
        stop = min(start + PANEL, (size + 1) // 2)
        first = matrix_CC[start:stop].flip(0, 1)
        last = matrix_CC[size - stop : size - start].flip(0, 1)
        matrix_CC[start:stop] = last
        matrix_CC[size - stop : size - start] = first


def factor_with_damping(hessian_CC: Tensor, damping: float, name: str) -> tuple[Tensor, float]:
    """`upper_factor` with the damping that was asked for, raised tenfold as often as it takes; and that damping.

    Raises:
        HessianError: no damping helps: the inputs are not finite.
    """
    for power in itertools.count():
        tried = damping * 10**power
        try:
            return upper_factor(hessian_CC, tried), tried
        except HessianError:
            if tried > _HIGHEST_DAMPING or not bool(torch.isfinite(hessian_CC.diagonal()).all()):
                raise
            log.warning("%s: a damping of %g leaves the Hessian indefinite, trying %g", name, tried, 10 * tried)
    raise AssertionError("count never ends")


def _invert_triangle(lower_CC: Tensor) -> None:
    """Invert a lower triangle in place, by halves: [[A, 0], [B, D]]^-1 = [[A^-1, 0], [-D^-1 B A^-1, D^-1]]."""
    size = lower_CC.shape[0]
    if size <= _INVERT_DIRECTLY:
        eye = torch.eye(size, dtype=lower_CC.dtype, device=lower_CC.device)
        lower_CC.copy_(torch.linalg.solve_triangular(lower_CC, eye, upper=False))
        return
    half = (size // 2 + _INVERT_DIRECTLY - 1) // _INVERT_DIRECTLY * _INVERT_DIRECTLY
    first, below, second = lower_CC[:half, :half], lower_CC[half:, :half], lower_CC[half:, half:]
    _invert_triangle(first)
    _invert_triangle(second)
    torch.matmul(second, below @ first, out=below).neg_()
