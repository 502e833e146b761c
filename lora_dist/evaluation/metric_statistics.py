"""Intervals for what answers are judged by, and for differences of two arms on the same answers. No torch."""

# Dims: R answers, K statistics of a metric, S resamples, s resamples of one chunk.

from __future__ import annotations

import numpy as np

from lora_dist.evaluation.statistics import Difference, percentiles, resampled_counts, wilson
from lora_dist.evaluation.text_metrics import TextMetric


def value_of(metric: TextMetric, statistics_RK: np.ndarray) -> float:
    """The metric over all answers.

    Raises:
        ValueError: there are none.
    """
    _check(statistics_RK)
    return float(metric.values(statistics_RK.sum(axis=0, keepdims=True), len(statistics_RK))[0])


def interval_of(
    metric: TextMetric, statistics_RK: np.ndarray, *, resamples: int, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Wilson's score interval for a share of right answers, else a percentile bootstrap over answers.

    Wilson (1927) holds where all answers are right or none is; the bootstrap has no width there.

    Raises:
        ValueError: there are no answers.
    """
    if metric.is_share:
        return wilson(round(float(statistics_RK[:, 0].sum())), len(statistics_RK), level=level)
    return percentiles(_resampled(metric, statistics_RK, resamples, seed), level)


def difference_of(
    metric: TextMetric,
    statistics_a_RK: np.ndarray,
    statistics_b_RK: np.ndarray,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """The metric of a minus that of b, with its paired bootstrap interval: both are resampled on the same answers.

    Raises:
        ValueError: the two have different numbers of answers, or none.
    """
    if statistics_a_RK.shape != statistics_b_RK.shape:
        raise ValueError(f"{len(statistics_a_RK)} answers and {len(statistics_b_RK)} are not the same ones")
    value = value_of(metric, statistics_a_RK) - value_of(metric, statistics_b_RK)
    both = [_resampled(metric, statistics_RK, resamples, seed) for statistics_RK in (statistics_a_RK, statistics_b_RK)]
    return Difference(value, *percentiles(both[0] - both[1], level), rows=len(statistics_a_RK))


def _resampled(metric: TextMetric, statistics_RK: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The metric [S] of each resample; the same draws for the same number of answers and seed."""
    _check(statistics_RK)
    rows = len(statistics_RK)
    parts = [metric.values(counts_sR @ statistics_RK, rows) for counts_sR in resampled_counts(rows, resamples, seed)]
    return np.concatenate(parts)


def _check(statistics_RK: np.ndarray) -> None:
    if statistics_RK.ndim != 2 or not len(statistics_RK):
        raise ValueError(f"statistics have shape {statistics_RK.shape}; it has to be [answers, statistics], not empty")
