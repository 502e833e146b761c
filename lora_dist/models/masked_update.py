"""x (s B A * M)^T: a low-rank update that counts only where the base has weights, and its gradients, in row chunks.

The update that a plain LoRA adds has no zeros; masked by the base's own, it leaves them (SparsePEFT in SQFT, Munoz et
al. 2024, arXiv 2410.03750). The product s B A * M is not of low rank, so it has to be formed: here for some rows at a
time, in the forward and again in the backward pass, and neither it nor its gradient ever exists whole.
"""

# Dims: T tokens, R outputs (r of them in a chunk), C inputs, K rank.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lora_dist.models.masks import unpack_bits

_CHUNK_WEIGHTS = 4 * 2**20
"""Weights of a chunk: 16 MiB in float32."""


def masked_update(x_TC: Tensor, a_KC: Tensor, b_RK: Tensor, bits: Tensor, scaling: float) -> Tensor:
    """The masked update of some inputs (any leading dims) [..., R]; differentiable in x, A and B.

    Args:
        bits: `pack_bits` of the mask, true where the base's weight is not zero.
    """
    return _MaskedUpdate.apply(x_TC, a_KC, b_RK, bits, scaling)


def masked_weights(a_KC: Tensor, b_RK: Tensor, bits: Tensor, scaling: float) -> Tensor:
    """The update itself [R, C], in the dtype of A and B: what a merge adds."""
    return _update(a_KC, b_RK, unpack_bits(bits, a_KC.shape[1]), scaling)


def _update(a_KC: Tensor, b_RK: Tensor, keep_RC: Tensor, scaling: float) -> Tensor:
    return ((b_RK * scaling) @ a_KC).mul_(keep_RC)  # masked_fill_ takes four times as long (2 cores, 2026-11)


class _MaskedUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a_KC: Tensor, b_RK: Tensor, bits: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(x, a_KC, b_RK)
        ctx.bits, ctx.scaling = bits, scaling
        kind = x.device.type
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            x_TC = x.reshape(-1, x.shape[-1]).to(ctx.dtype)
            y_TR = x_TC.new_empty(len(x_TC), len(b_RK))
            for rows in _chunks(b_RK, a_KC):
                y_TR[:, rows] = x_TC @ masked_weights(a_KC, b_RK[rows], bits[rows], scaling).to(ctx.dtype).T
        return y_TR.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, a_KC, b_RK = ctx.saved_tensors
        wants_x, wants_a, wants_b = ctx.needs_input_grad[:3]
        with torch.autocast(x.device.type, enabled=False):
            x_TC, g_TR = (t.reshape(-1, t.shape[-1]).to(ctx.dtype) for t in (x, gradients[0]))
            gx_TC = torch.zeros_like(x_TC) if wants_x else None
            ga_KC, gb_RK = torch.zeros_like(a_KC), torch.zeros_like(b_RK)
            for rows in _chunks(b_RK, a_KC):
                keep_rC = unpack_bits(ctx.bits[rows], a_KC.shape[1])
                if gx_TC is not None:
                    gx_TC.addmm_(g_TR[:, rows], _update(a_KC, b_RK[rows], keep_rC, ctx.scaling).to(ctx.dtype))
                if wants_a or wants_b:
                    g_rC = (g_TR[:, rows].T @ x_TC).to(a_KC.dtype).mul_(keep_rC)
                    gb_RK[rows] = g_rC @ (a_KC.T * ctx.scaling)
                    ga_KC.addmm_(b_RK[rows].T, g_rC, alpha=ctx.scaling)
        gx = gx_TC.view(x.shape).to(x.dtype) if gx_TC is not None else None
        return gx, ga_KC if wants_a else None, gb_RK if wants_b else None, None, None


def _chunks(b_RK: Tensor, a_KC: Tensor) -> Iterator[slice]:
    step = max(1, _CHUNK_WEIGHTS // a_KC.shape[1])
    for start in range(0, len(b_RK), step):
        yield slice(start, min(start + step, len(b_RK)))
