"""Logits of chosen positions, in chunks: the decoder runs once, the model's own head runs on a few positions at a time.

The logits of a whole batch are the largest tensor of an evaluation (8 rows x 2,048 tokens x 128k words in float32 are
8 GiB). Here the causal LM's own `forward` makes them, so that soft-capping and scaling (Gemma 2, Cohere, Granite) are
whatever the model does; only its decoder is stood in for by one that answers with hidden states computed before.
"""

# Dims: B rows, T tokens of a row, P chosen positions, H hidden size, V vocabulary.

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from lora_dist.errors import ModelError
from lora_dist.evaluation.live_model import embedding_rows, input_device
from lora_dist.models.skeleton import forward_replaced
from lora_dist.models.structure import causal_lm

_log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 2**20
"""Float32 logits that exist at once. Small beside the weights of any model with a large vocabulary (the embeddings of
128k words x 2,048 in bfloat16 are 500 MiB), large enough that the head is one full matrix product: 131 positions of
128k words, 500 of 32k."""

_PROBE_TOKENS = 16


class Head(Protocol):
    """Where logits come from."""

    vocab_size: int
    """Width of the logits."""
    rows_at_once: int | None
    """Most rows that one call may have; None for any number."""

    def chunks(self, ids_BT: Tensor, mask_BT: Tensor, chosen_BT: Tensor) -> Iterator[Tensor]:
        """Logits [p, V], in the model's dtype, of the positions where `chosen_BT` is true, row by row in order."""
        ...


@dataclass(frozen=True)
class SplitHead:
    """The decoder once, then the head in chunks."""

    outer: nn.Module
    """The model as given (with its PEFT wrapper)."""
    decoder: nn.Module
    output_type: type[ModelOutput]
    """What the decoder answers with."""
    vocab_size: int
    rows_at_once: int | None = None
    """1 where padding would change the answers."""

    def chunks(self, ids_BT: Tensor, mask_BT: Tensor, chosen_BT: Tensor) -> Iterator[Tensor]:
        """See `Head.chunks`."""
        hidden_BTH = _run_decoder(self.outer, self.decoder, ids_BT, mask_BT).last_hidden_state
        hidden_PH = hidden_BTH[chosen_BT.to(hidden_BTH.device)]
        del hidden_BTH
        for chunk_PH in hidden_PH.split(positions_per_chunk(self.vocab_size)):
            yield _run_head(self.outer, self.decoder, self.output_type, chunk_PH)


@dataclass(frozen=True)
class FullHead:
    """All logits of one row at a time: for models whose decoder cannot be told from their head."""

    outer: nn.Module
    vocab_size: int
    rows_at_once: int | None = 1

    def chunks(self, ids_BT: Tensor, mask_BT: Tensor, chosen_BT: Tensor) -> Iterator[Tensor]:
        """See `Head.chunks`."""
        logits_BTV = self.outer(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        for row_TV, chosen_T in zip(logits_BTV, chosen_BT.to(logits_BTV.device), strict=True):
            for index_p in chosen_T.nonzero()[:, 0].split(positions_per_chunk(self.vocab_size)):
                yield row_TV[index_p]


def positions_per_chunk(vocab_size: int) -> int:
    """How many positions have their float32 logits within `CHUNK_BYTES` (at least one)."""
    return max(1, CHUNK_BYTES // (4 * vocab_size))


def open_head(model: nn.Module) -> Head:
    """The way to this model's logits, found by trying it on 16 tokens: splitting has to give the model's own logits.

    `model` is in evaluation mode, without gradients. Falls back to whole rows of logits, or to one row at a time
    where padding changes the answers, with a warning that says so.

    Raises:
        ModelError: the model does not give one row of logits per token.
    """
    ids_BT = torch.arange(min(_PROBE_TOKENS, embedding_rows(model)), device=input_device(model))[None]
    full_BTV = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
    if full_BTV.shape[:2] != ids_BT.shape:
        raise ModelError(
            key="model.path",
            problem=f"{tuple(ids_BT.shape)} tokens gave logits of shape {tuple(full_BTV.shape)}",
            fix="use a causal language model that predicts one next token per token",
        )
    kind, reasons = type(causal_lm(model)).__name__, []
    for decoder in _decoders_of(causal_lm(model)):
        head, reason = _try_split(model, decoder, ids_BT, full_BTV)
        if head is not None:
            return _one_row_if_padding_matters(head, kind, ids_BT, full_BTV)
        reasons.append(reason)
    _warn_once(kind, "with all logits of one row at a time", "; ".join(reasons) or "it has no decoder of its own")
    return FullHead(model, full_BTV.shape[-1])


def _decoders_of(inner: nn.Module) -> Iterator[nn.Module]:
    """What may be this causal LM's decoder, likeliest first."""
    seen = [inner]
    named = inner.get_decoder() if hasattr(inner, "get_decoder") else None
    for found in (getattr(inner, "base_model", None), named, getattr(inner, "model", None)):
        if isinstance(found, nn.Module) and not any(found is other for other in seen):
            seen.append(found)
            yield found


def _one_row_if_padding_matters(head: SplitHead, kind: str, ids_BT: Tensor, full_BTV: Tensor) -> SplitHead:
    """`head`, limited to one row at a time when a padded, shortened row does not get the logits it had before."""
    half = max(1, ids_BT.shape[1] // 2)
    mask_BT = torch.ones_like(ids_BT).repeat(2, 1)
    mask_BT[1, half:] = 0
    chosen_BT = mask_BT.bool()
    chosen_BT[0] = False
    padded_PV = torch.cat(list(head.chunks(ids_BT.repeat(2, 1) * mask_BT, mask_BT, chosen_BT)))
    if _same_logits(padded_PV, full_BTV[0, :half]):
        return head
    _warn_once(kind, "one row at a time", "padding, or what comes later, changes its predictions")
    return replace(head, rows_at_once=1)


def _try_split(model: nn.Module, decoder: nn.Module, ids_BT: Tensor, full_BTV: Tensor) -> tuple[SplitHead | None, str]:
    """A `SplitHead` that reproduces `full_BTV`, or None and why there is none."""
    try:
        output = _run_decoder(model, decoder, ids_BT, torch.ones_like(ids_BT))
        # Backwards and every second one: a head that mixes positions, or counts them, is found out.
        order_P = torch.arange(ids_BT.shape[1] - 1, -1, -2, device=output.last_hidden_state.device)
        split_PV = _run_head(model, decoder, type(output), output.last_hidden_state[0, order_P])
    except (_CannotSplit, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return None, f"{type(decoder).__name__}: {error}"
    full_PV = full_BTV[0, order_P.to(full_BTV.device)]
    if split_PV.shape != full_PV.shape:
        return None, f"{type(decoder).__name__}: logits {tuple(split_PV.shape)} instead of {tuple(full_PV.shape)}"
    if not _same_logits(split_PV, full_PV):
        return None, f"{type(decoder).__name__}: other logits than the whole model"
    return SplitHead(model, decoder, type(output), full_PV.shape[-1]), ""


def _same_logits(found_PV: Tensor, expected_PV: Tensor) -> bool:
    """Equal but for sums in another order, which another shape may bring: a few units in the last place."""
    expected_PV = expected_PV.to(found_PV.device)
    largest = expected_PV.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().max()
    allowed = 16 * torch.finfo(expected_PV.dtype).eps * float(largest)
    return torch.allclose(found_PV, expected_PV, rtol=0.0, atol=allowed, equal_nan=True)


class _CannotSplit(Exception):
    """This module is not the decoder between a causal LM's tokens and its head."""


def _run_decoder(outer: nn.Module, decoder: nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> ModelOutput:
    """The decoder's answer within a forward pass of the whole model, whose head sees one position per row only."""
    answers: list[Any] = []
    real = decoder.forward

    def listen(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if not isinstance(answer, ModelOutput) or answer.get("last_hidden_state") is None:
            raise _CannotSplit(f"answers with {type(answer).__name__}, not with last_hidden_state")
        answers.append(answer)
        return type(answer)(last_hidden_state=answer.last_hidden_state[:, -1:])

    with forward_replaced(decoder, listen):
        outer(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
    if len(answers) != 1:
        raise _CannotSplit(f"ran {len(answers)} times in one forward pass")
    return answers[0]


def _run_head(outer: nn.Module, decoder: nn.Module, output_type: type[ModelOutput], hidden_PH: Tensor) -> Tensor:
    """Logits [P, V] that the causal LM makes of these hidden states."""

    def answer(*_: Any, **__: Any) -> ModelOutput:
        return output_type(last_hidden_state=hidden_PH[None])

    ids_1P = torch.zeros((1, hidden_PH.shape[0]), dtype=torch.long, device=input_device(outer))  # never looked at
    with forward_replaced(decoder, answer):
        return causal_lm(outer)(input_ids=ids_1P, use_cache=False).logits[0]


@functools.cache
def _warn_once(kind: str, how: str, reason: str) -> None:
    _log.warning("%s is scored %s, which is slow (%s)", kind, how, reason)
