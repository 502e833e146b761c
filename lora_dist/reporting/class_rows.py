"""The scores of a classifier's test rows, and differences between two classifiers on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from lora_dist.evaluation.class_metrics import metric_difference
from lora_dist.evaluation.class_scores import ClassScores, read_class_scores
from lora_dist.evaluation.statistics import Difference
from lora_dist.reporting.rows import BOOTSTRAP_SEED, Row, scores_path

_SCORES_KEPT = 64  # score files in memory at once: references are read again and again


def class_scores(row: Row) -> ClassScores:
    """What a row's classifier said of each test row.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    path = scores_path(row)
    return _read_once((path, path.stat().st_mtime_ns if path.exists() else 0))


@lru_cache(maxsize=_SCORES_KEPT)
def _read_once(version: tuple[Path, int]) -> ClassScores:
    return read_class_scores(version[0])


def class_difference(metric: str, rows: Sequence[Row], references: Sequence[Row]) -> Difference:
    """Mean of a metric over `rows` (seeds) minus that over `references` on the test rows, with its paired interval.

    Raises:
        StorageError: the scores of one of them are missing or unreadable.
        ValueError: they are not of the same rows.
    """
    mine, theirs = [class_scores(row) for row in rows], [class_scores(row) for row in references]
    labels_R = mine[0].label_R
    for other in (*mine, *theirs):
        if not np.array_equal(other.label_R, labels_R):
            raise ValueError(f"{len(labels_R)} rows and {len(other.label_R)} rows, with other labels")
    predicted = (np.stack([scores.predicted_R for scores in side]) for side in (mine, theirs))
    resamples = rows[0].run.evaluate.bootstrap_samples
    return metric_difference(
        metric, labels_R, *predicted, len(labels_of(rows[0])), resamples=resamples, seed=BOOTSTRAP_SEED
    )


def labels_of(row: Row) -> list[str]:
    """What the classes of a row are called."""
    return (row.record.data.labels if row.record else None) or []
