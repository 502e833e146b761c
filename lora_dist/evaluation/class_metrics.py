"""Accuracy and F1 of a classifier with their intervals, and differences between two. numpy only: reports are made on
login nodes."""

# Dims: R rows, C classes (true, predicted), s resamples of one chunk, S resamples, K kinds of rows that there are.
#
# The rows are the sample, as in statistics.py. All that a metric sees of a row is its class and what was predicted, so
# a resample of R rows with replacement is a draw of how many there are of each kind: Multinomial(R, shares of kinds).

from __future__ import annotations

from collections.abc import Callable, Iterator

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


def accuracy(counts_sCC: np.ndarray) -> np.ndarray:
    """Share of the rows whose class was predicted, of each confusion matrix [..., C, C]."""
    return np.trace(counts_sCC, axis1=-2, axis2=-1) / counts_sCC.sum((-2, -1))


def f1_macro(counts_sCC: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that a row has or was given: every class counts the same, however rare."""
    f1_sC, _, is_there_sC = _f1(counts_sCC)
    return (f1_sC * is_there_sC).sum(-1) / is_there_sC.sum(-1)


def f1_weighted(counts_sCC: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes, each weighted by how many rows have it."""
    f1_sC, true_sC, _ = _f1(counts_sCC)
    return (f1_sC * true_sC).sum(-1) / true_sC.sum(-1)


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": accuracy,
    "f1_macro": f1_macro,
    "f1_weighted": f1_weighted,
}
"""By the names that records have."""


def _f1(counts_sCC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F1 of each class (0 where nothing was hit), how many rows have it, and whether any has it or was given it.

    F1 = 2 hits / (rows of the class + rows that were given it), which is the harmonic mean of precision and recall.
    """
    hits_sC = np.diagonal(counts_sCC, axis1=-2, axis2=-1)
    true_sC, given_sC = counts_sCC.sum(-1), counts_sCC.sum(-2)
    sums_sC = true_sC + given_sC
    return 2 * hits_sC / np.maximum(sums_sC, 1), true_sC, sums_sC > 0


def metric_interval(
    metric: str, counts_CC: np.ndarray, *, resamples: int, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a metric over a confusion matrix: Wilson's for accuracy, else a percentile bootstrap over rows."""
    if metric == "accuracy":
        return wilson(int(np.trace(counts_CC)), int(counts_CC.sum()), level=level)
    classes = len(counts_CC)
    drawn = _resampled(counts_CC.reshape(-1), resamples, seed)
    values_S = np.concatenate([METRICS[metric](counts_sK.reshape(-1, classes, classes)) for counts_sK in drawn])
    return _percentiles(values_S, level)


def metric_difference(
    metric: str,
    labels_R: np.ndarray,
    predicted_a_R: np.ndarray,
    predicted_b_R: np.ndarray,
    classes: int,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """A metric of a minus that of b on the same rows, with its paired bootstrap interval.

    Raises:
        ValueError: as `confusion`.
    """
    counts_a_CC = confusion(labels_R, predicted_a_R, classes)
    counts_b_CC = confusion(labels_R, predicted_b_R, classes)
    kinds_K3, counts_K = np.unique(np.stack([labels_R, predicted_a_R, predicted_b_R], 1), axis=0, return_counts=True)
    cells = np.eye(classes**2)
    a_KQ, b_KQ = (cells[kinds_K3[:, 0] * classes + kinds_K3[:, column]] for column in (1, 2))
    of = METRICS[metric]
    values_S = np.concatenate(
        [
            of((counts_sK @ a_KQ).reshape(-1, classes, classes)) - of((counts_sK @ b_KQ).reshape(-1, classes, classes))
            for counts_sK in _resampled(counts_K, resamples, seed, width=classes**2)
        ]
    )
    value = float(of(counts_a_CC) - of(counts_b_CC))
    return Difference(value, *_percentiles(values_S, level), rows=len(labels_R))


def mean_accuracy_difference(
    labels_R: np.ndarray,
    predicted_a_NR: np.ndarray,
    predicted_b_MR: np.ndarray,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Mean accuracy of N classifiers (seeds of a) minus that of M others (of b) on the same rows, with its paired
    bootstrap interval over the rows: it says nothing about other seeds than these.

    Raises:
        ValueError: they are not of the same rows.
    """
    if predicted_a_NR.shape[1:] != labels_R.shape or predicted_b_MR.shape[1:] != labels_R.shape:
        raise ValueError(f"{predicted_a_NR.shape} and {predicted_b_MR.shape} predictions of {labels_R.shape} rows")
    differences_R = (predicted_a_NR == labels_R).mean(0) - (predicted_b_MR == labels_R).mean(0)
    kinds_K, counts_K = np.unique(differences_R, return_counts=True)
    sums_S = np.concatenate([counts_sK @ kinds_K for counts_sK in _resampled(counts_K, resamples, seed)])
    interval = _percentiles(sums_S / len(labels_R), level)
    return Difference(float(differences_R.mean()), *interval, rows=len(labels_R))


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
