"""Scoring a classifier: each row's negative log-likelihood and predicted class, whatever the batches were."""

# Dims: R rows of the data, B rows of a batch, T tokens of a row, C classes.

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lora_dist.errors import ModelError
from lora_dist.evaluation.class_scores import ClassScores
from lora_dist.evaluation.live_model import evaluating, input_device
from lora_dist.evaluation.shares import deal
from lora_dist.team import Team

Row = tuple[np.ndarray, np.ndarray]


def score_classes(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    pad_token_id: int,
    batch_size: int,
    team: Team | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ClassScores:
    """Score rows of (input_ids, [class]) under `model`, a classifier of transformers with or without PEFT.

    Log-softmax is taken in float32. Rows of like length share a batch, padded on the right; the numbers do not depend
    on `batch_size` beyond the rounding of the model's own dtype. The batches are dealt to the ranks of `team`, and each
    gets all scores. `progress(done, total)` hears of rows.

    Raises:
        ModelError: a row's NLL is NaN or infinite.
    """
    label_R = np.array([labels[0] for _, labels in rows], np.int32)
    order_R = np.argsort([-len(ids) for ids, _ in rows], kind="stable")
    batches = [order_R[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    nll_R, predicted_R = np.zeros(len(rows)), np.zeros(len(rows), np.int32)
    done = 0
    with evaluating(model):
        for mine, turn in deal(batches, team):
            for batch_B in mine:
                nll_R[batch_B], predicted_R[batch_B] = _score(model, [rows[r] for r in batch_B], pad_token_id)
            done += sum(map(len, turn))
            if progress is not None:
                progress(done, len(rows))
    if team is not None:  # each row is zero on all ranks but one
        nll_R, predicted_R = np.sum(team.gather(nll_R), axis=0), np.sum(team.gather(predicted_R), axis=0)
    if not np.isfinite(nll_R).all():
        row = int(np.flatnonzero(~np.isfinite(nll_R))[0])
        raise ModelError(
            key="model.dtype",
            problem=f"the negative log-likelihood of row {row} is {nll_R[row]}",
            fix="use bfloat16 or float32 (float16 overflows), and check that training did not diverge",
        )
    return ClassScores(nll_R, label_R, predicted_R.astype(np.int32))


def _score(model: nn.Module, rows: Sequence[Row], pad_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """NLL, float64 [B], and predicted class, int [B], of each row."""
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    ids_BT, mask_BT = np.full(shape, pad_token_id, np.int64), np.zeros(shape, np.int64)
    for b, (ids, _) in enumerate(rows):
        ids_BT[b, : len(ids)], mask_BT[b, : len(ids)] = ids, 1
    device = input_device(model)
    logits_BC = model(
        input_ids=torch.from_numpy(ids_BT).to(device), attention_mask=torch.from_numpy(mask_BT).to(device)
    ).logits.float()
    labels_B = torch.tensor([int(labels[0]) for _, labels in rows], device=logits_BC.device)
    nll_B = cross_entropy(logits_BC, labels_B, reduction="none")
    return nll_B.double().cpu().numpy(), logits_BC.argmax(-1).cpu().numpy()
