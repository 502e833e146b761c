"""What a linear's inputs say about its weights: their second moments.

A Gram matrix is taken in float32 for each forward pass and added up in float64. Sums of float32 numbers are then, but
for entries some 2^22 times smaller than the largest, free of rounding: they do not depend on which rank added what.
"""

# Dims: T tokens, C columns of the weight (inputs of the linear), P columns of a panel.

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

PANEL = 512
"""Columns of a panel. Fixed, since the shape of a product is what its bits depend on."""


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
