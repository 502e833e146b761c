"""The independent answer that our scores are held against."""

from __future__ import annotations

import math

import torch


def float64_nll(model, row):
    """One row, plain transformers, log-softmax in float64."""
    ids, labels = row
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([ids])).logits[0].double()
    return math.fsum(
        float(torch.logsumexp(logits_TV[t - 1], 0) - logits_TV[t - 1, labels[t]])
        for t in range(1, len(ids))
        if labels[t] != -100
    )
