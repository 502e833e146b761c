"""The scores of a classifier's test rows, and differences between two classifiers on them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

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


def class_difference(metric: str, row: Row, reference: Row) -> Difference:
    """A metric of `row` minus that of `reference` on the test rows, with its paired interval.

    Raises:
        StorageError: the scores of one of them are missing or unreadable.
        ValueError: they are not of the same rows.
    """
    mine, theirs = class_scores(row), class_scores(reference)
    if mine.label_R.tolist() != theirs.label_R.tolist():
        raise ValueError(f"{len(mine.label_R)} rows and {len(theirs.label_R)} rows, with other labels")
    return metric_difference(
        metric, mine.label_R, mine.predicted_R, theirs.predicted_R, len(labels_of(row)),
        resamples=row.run.evaluate.bootstrap_samples, seed=BOOTSTRAP_SEED,
    )  # fmt: skip


def labels_of(row: Row) -> list[str]:
    """What the classes of a row are called."""
    return (row.record.data.labels if row.record else None) or []
