"""Accuracy and F1 of a classifier with their intervals, and differences between two. numpy only: reports are made on
login nodes."""

# Dims: R rows, C classes (true, predicted), s resamples of one chunk, S resamples, K kinds of rows that there are.
#
# The rows are the sample, as in statistics.py. All that a metric sees of a row is its class and what was predicted, so
# a resample of R rows with replacement is a draw of how many there are of each kind: Multinomial(R, shares of kinds).

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lora_dist.evaluation.statistics import Difference, wilson

_CHUNK_DRAWS = 2**21  # counts held at once: 16 MiB


def confusion(labels_R: np.ndarray, predicted_R: np.ndarray, classes: int) -> np.ndarray:
    """How many rows of each class [true] were given which class [predicted], int64 [C, C].

    Raises:
        ValueError: no rows, lengths that differ, or a class outside 0..classes-1.
    """
    labels_R, predicted_R = np.asarray(labels_R, np.int64), np.asarray(predicted_R, np.int64)
    if labels_R.ndim != 1 or labels_R.shape != predicted_R.shape or labels_R.size == 0:
        raise ValueError(f"labels have shape {labels_R.shape} and predictions {predicted_R.shape}, not [rows]")
    if min(labels_R.min(), predicted_R.min()) < 0 or max(labels_R.max(), predicted_R.max()) >= classes:
        raise ValueError(f"a class is outside 0..{classes - 1}")
    return np.bincount(labels_R * classes + predicted_R, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class Tally:
    """All that the metrics see of predictions, by class; float or int [..., C]."""

    hits: np.ndarray
    """Rows of the class that were given it."""
    true: np.ndarray
    """Rows of the class."""
    given: np.ndarray
    """Rows that were given the class."""

    @classmethod
    def of(cls, counts_sCC: np.ndarray) -> Tally:
        """That of each confusion matrix [..., C, C]."""
        return cls(np.diagonal(counts_sCC, axis1=-2, axis2=-1), counts_sCC.sum(-1), counts_sCC.sum(-2))

    @property
    def f1(self) -> np.ndarray:
        """F1 of each class, 0 where nothing was hit: 2 hits / (rows of the class + rows that were given it), which is
        the harmonic mean of precision and recall."""
        return 2 * self.hits / np.maximum(self.true + self.given, 1)


def accuracy(tally: Tally) -> np.ndarray:
    """Share of the rows whose class was predicted."""
    return tally.hits.sum(-1) / tally.true.sum(-1)


def f1_macro(tally: Tally) -> np.ndarray:
    """Mean F1 over the classes that a row has or was given: every class counts the same, however rare."""
    is_there_C = tally.true + tally.given > 0
    return (tally.f1 * is_there_C).sum(-1) / is_there_C.sum(-1)


def f1_weighted(tally: Tally) -> np.ndarray:
    """Mean F1 over the classes, each weighted by how many rows have it."""
    return (tally.f1 * tally.true).sum(-1) / tally.true.sum(-1)


METRICS: dict[str, Callable[[Tally], np.ndarray]] = {
    "accuracy": accuracy,
    "f1_macro": f1_macro,
    "f1_weighted": f1_weighted,
}
"""By the names that records have."""


def metric_interval(
    metric: str, counts_CC: np.ndarray, *, resamples: int, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a metric over a confusion matrix: Wilson's for accuracy, else a percentile bootstrap over rows."""
    if metric == "accuracy":
        return wilson(int(np.trace(counts_CC)), int(counts_CC.sum()), level=level)
    classes = len(counts_CC)
    drawn = _resampled(counts_CC.reshape(-1), resamples, seed)
    values_S = np.concatenate(
        [METRICS[metric](Tally.of(counts_sK.reshape(-1, classes, classes))) for counts_sK in drawn]
    )
    return _percentiles(values_S, level)


def metric_difference(
    metric: str,
    labels_R: np.ndarray,
    predicted_a_NR: np.ndarray,
    predicted_b_MR: np.ndarray,
    classes: int,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Mean of a metric over N classifiers (seeds of a) minus that over M others (of b) on the same rows, with its
    paired bootstrap interval over the rows: it says nothing about other seeds than these.

    Raises:
        ValueError: as `confusion`, or the predictions are not of these rows.
    """
    if predicted_a_NR.shape[1:] != labels_R.shape or predicted_b_MR.shape[1:] != labels_R.shape:
        raise ValueError(f"{predicted_a_NR.shape} and {predicted_b_MR.shape} predictions of {labels_R.shape} rows")
    sides = ((predicted_a_NR, 1.0), (predicted_b_MR, -1.0))
    signed = [(said_R, sign / len(said_NR)) for said_NR, sign in sides for said_R in said_NR]
    of = METRICS[metric]
    value = sum(weight * of(Tally.of(confusion(labels_R, said_R, classes))) for said_R, weight in signed)
    kinds, counts_K = np.unique(np.stack([labels_R, *(said for said, _ in signed)], 1), axis=0, return_counts=True)
    ones_CC = np.eye(classes)
    true_KC, values = ones_CC[kinds[:, 0]], []
    for counts_sK in _resampled(counts_K, resamples, seed, width=classes):
        true_sC, sums_s = counts_sK @ true_KC, np.zeros(len(counts_sK))
        for column, (_, weight) in enumerate(signed, start=1):
            given_KC = ones_CC[kinds[:, column]]
            sums_s += weight * of(Tally(counts_sK @ (given_KC * true_KC), true_sC, counts_sK @ given_KC))
        values.append(sums_s)
    return Difference(float(value), *_percentiles(np.concatenate(values), level), rows=len(labels_R))


def _resampled(counts_K: np.ndarray, resamples: int, seed: int, width: int = 1) -> Iterator[np.ndarray]:
    """How many rows of each kind every resample drew, float64 [s, K], a bounded number of resamples at a time."""
    random = np.random.default_rng(seed)
    rows = int(counts_K.sum())
    at_once = max(1, _CHUNK_DRAWS // max(len(counts_K), width))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        yield random.multinomial(rows, counts_K / rows, size=size).astype(np.float64)


def _percentiles(values_S: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values_S, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
