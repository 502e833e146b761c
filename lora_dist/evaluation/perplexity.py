"""Perplexity: the sum of negative log-likelihoods over the sum of scored tokens, whatever the batches were."""

# Dims: R rows of the data, B rows of a batch, T tokens of a row, P scored positions of a batch, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lora_dist.data.tokens import NOT_SCORED
from lora_dist.errors import DataError, ModelError
from lora_dist.evaluation.heads import Head, open_head
from lora_dist.evaluation.live_model import embedding_rows, evaluating, input_device
from lora_dist.evaluation.shares import deal
from lora_dist.models.loading import context_length
from lora_dist.models.prefix import virtual_tokens
from lora_dist.models.structure import causal_lm
from lora_dist.team import Team

_PADDING_ID = 0  # any id that the model can read: it is masked, comes after every real token, and is never scored

Row = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class RowScores:
    """Negative log-likelihood (nats) and scored tokens of each row, in the order of the rows."""

    nll_R: np.ndarray  # noqa: N815
    """float64"""
    tokens_R: np.ndarray  # noqa: N815
    """int64, at least 1 each"""

    @property
    def nll_sum(self) -> float:
        """Nats over all rows, summed without rounding error."""
        return math.fsum(self.nll_R)

    @property
    def scored_tokens(self) -> int:
        """Tokens that were predicted."""
        return int(self.tokens_R.sum())

    @property
    def perplexity(self) -> float:
        """exp(nll_sum / scored_tokens); infinity above e^709."""
        mean = self.nll_sum / self.scored_tokens
        return math.exp(mean) if mean < 709 else math.inf


def score_rows(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    batch_size: int,
    team: Team | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RowScores:
    """Score each row's labels under `model` (a causal LM of transformers, with or without PEFT, 4-bit or not).

    A row is (input_ids, labels), aligned: `labels[t]` is predicted from `input_ids[:t]`, -100 is not scored, and
    `labels[0]`, which nothing precedes, never counts. Log-softmax is taken in float32 and summed in float64; the
    result does not depend on `batch_size` beyond the rounding of the model's own dtype. Logits exist for a few scored
    positions at a time (see heads.py). `progress(done, total)` hears of rows. The model's training flags are kept.

    The batches are dealt to the ranks of `team`, each with its own copy of the model, and each gets all scores: those
    of one rank, to the last bit, because the batches are the same.

    Raises:
        DataError: there are no rows, or a row has nothing to score, is misaligned, or has ids the model does not know.
        ModelError: a row's NLL is NaN or infinite.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it has to be at least 1")
    with evaluating(model):
        head = open_head(model)
        lengths_R, tokens_R = _measure(rows, min(embedding_rows(model), head.vocab_size))
        _check_room(lengths_R, model)
        nll_R = np.zeros(len(rows))
        done = 0
        for mine, turn in deal(list(_batches(lengths_R, head.rows_at_once or batch_size)), team):
            for batch_B in mine:
                nll_R[batch_B] = _score_batch(head, [rows[r] for r in batch_B], input_device(model))
                _check_finite(nll_R, batch_B)
            done += sum(map(len, turn))
            if progress is not None:
                progress(done, len(rows))
    if team is not None:
        nll_R = np.sum(team.gather(nll_R), axis=0)  # each row is zero on all ranks but one
    return RowScores(nll_R, tokens_R)


def bits_per_byte(nll_sum: float, scored_bytes: int) -> float:
    """Bits (log2) per byte of scored text: comparable across tokenizers. `nll_sum` is in nats.

    Raises:
        ValueError: `scored_bytes` is not positive.
    """
    if scored_bytes <= 0:
        raise ValueError(f"scored_bytes is {scored_bytes}; there is no text to divide by")
    return nll_sum / math.log(2) / scored_bytes


def explain_worse_than_uniform(nll_per_token: float, vocab_size: int) -> str | None:
    """One line on what to look at when a model is worse than guessing uniformly over its vocabulary, else None.

    A pretrained model that was not trained further cannot be that bad on text: the measurement is wrong.
    """
    uniform = math.log(vocab_size)
    if nll_per_token <= uniform:
        return None
    return (
        f"{nll_per_token:.2f} nats per token is worse than uniform guessing over {vocab_size:,} tokens "
        f"({uniform:.2f}): look for a wrong template, scored padding, shifted labels, or another model's tokenizer"
    )


def _measure(rows: Sequence[Row], known_ids: int) -> tuple[np.ndarray, np.ndarray]:
    """Length and scored tokens of each row; raises DataError for the first row that cannot be scored."""
    if len(rows) == 0:
        raise DataError(key="data", problem="there is no row to score", fix="give at least one example per split")
    lengths_R, tokens_R = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for r, (ids, labels) in enumerate(rows):
        ids_T, labels_T = np.asarray(ids, np.int64), np.asarray(labels, np.int64)
        if ids_T.shape != labels_T.shape or ids_T.ndim != 1:
            raise _bad_row(r, f"{ids_T.size} token ids and {labels_T.size} labels", "give one label per token")
        scored = labels_T[1:][labels_T[1:] != NOT_SCORED]
        if scored.size == 0:
            raise _bad_row(r, "nothing in it is scored", "raise data.max_length or remove the example")
        if min(ids_T.min(), scored.min()) < 0 or max(ids_T.max(), scored.max()) >= known_ids:
            raise _bad_row(r, f"token ids outside 0..{known_ids - 1}", "use the tokenizer that came with the model")
        lengths_R[r], tokens_R[r] = ids_T.size, scored.size
    return lengths_R, tokens_R


def _check_room(lengths_R: np.ndarray, model: nn.Module) -> None:
    """A prefix takes a part of the context, which the rows were not made for."""
    prefix, context, longest = virtual_tokens(model), context_length(causal_lm(model)), int(lengths_R.argmax())
    if prefix and context is not None and prefix + lengths_R[longest] > context:
        problem = f"{lengths_R[longest]} tokens behind a prefix of {prefix} are more than the model's context"
        raise _bad_row(longest, f"{problem} of {context}", f"use data.max_length={context - prefix}")


def _bad_row(row: int, problem: str, fix: str) -> DataError:
    return DataError(key=f"data, row {row}", problem=problem, fix=fix)


def _batches(lengths_R: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Row numbers of each batch: rows of like length together, the longest first (what does not fit fails at once)."""
    order_R = np.argsort(-lengths_R, kind="stable")
    for start in range(0, len(order_R), batch_size):
        yield order_R[start : start + batch_size]


def _score_batch(head: Head, rows: Sequence[Row], device: torch.device) -> np.ndarray:
    """NLL of each row, float64 [B]."""
    ids_BT, mask_BT, labels_BT = (tensor.to(device) for tensor in _padded(rows))
    targets_BT = labels_BT.roll(-1, dims=1)  # position t predicts the token at t + 1
    targets_BT[:, -1] = NOT_SCORED
    chosen_BT = targets_BT != NOT_SCORED
    targets_P = targets_BT[chosen_BT]
    nll_p, start = [], 0
    for logits_pV in head.chunks(ids_BT, mask_BT, chosen_BT):
        targets_p = targets_P[start : start + len(logits_pV)].to(logits_pV.device)
        nll_p.append(cross_entropy(logits_pV.float(), targets_p, reduction="none"))
        start += len(logits_pV)
    nll_P = torch.cat(nll_p).cpu().numpy()
    row_P = chosen_BT.nonzero()[:, 0].cpu().numpy()
    return np.bincount(row_P, weights=nll_P, minlength=len(rows))  # sums in float64


def _padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, attention mask and labels [B, T], padded on the right."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    ids_BT, mask_BT, labels_BT = (np.full(shape, fill, np.int64) for fill in (_PADDING_ID, 0, NOT_SCORED))
    for b, (ids, labels) in enumerate(rows):
        ids_BT[b, : len(ids)], mask_BT[b, : len(ids)], labels_BT[b, : len(ids)] = ids, 1, labels
    return torch.from_numpy(ids_BT), torch.from_numpy(mask_BT), torch.from_numpy(labels_BT)


def _check_finite(nll_R: np.ndarray, batch_B: np.ndarray) -> None:
    broken = batch_B[~np.isfinite(nll_R[batch_B])]
    if broken.size:
        raise ModelError(
            key="model.dtype",
            problem=f"the negative log-likelihood of row {int(broken.min())} is {nll_R[broken.min()]}",
            fix="use bfloat16 or float32 (float16 overflows), and check that training did not diverge",
        )
