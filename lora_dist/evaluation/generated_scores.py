"""Judged answers on the disk: the statistics of each, by metric, so that reports can pair arms. No torch."""

# Dims: R answers, K statistics of a metric.

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lora_dist.config.sections import Metric, Task
from lora_dist.errors import StorageError
from lora_dist.evaluation.metric_statistics import difference_of, interval_of, value_of
from lora_dist.evaluation.statistics import Difference
from lora_dist.evaluation.text_metrics import TextMetric, text_metrics
from lora_dist.store.atomic import make_folder, write_bytes

_METRICS: tuple[Metric, ...] = ("exact_match", "f1", "rouge", "bleu")


class Answer(Protocol):
    """What is judged."""

    prediction: str
    reference: str


@dataclass(frozen=True)
class Judged:
    """What the answers of one run were judged by."""

    statistics: dict[str, np.ndarray]
    """By metric: float64 [R, K]."""
    by_row: dict[str, list[float]]
    """By metric: that of each answer alone."""
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def document(self) -> dict[str, Any]:
        """As the record has it."""
        return {**self.values, "ci95": {key: list(ends) for key, ends in self.intervals.items()}}


def judge(metrics: Sequence[Metric], task: Task, answers: Sequence[Answer], *, resamples: int) -> Judged:
    """Judge the answers by each of the metrics. Spaces around an answer and its reference do not count.

    Raises:
        ValueError: there are no answers.
    """
    predictions, references = ([getattr(one, part).strip() for one in answers] for part in ("prediction", "reference"))
    found = {metric.key: metric for metric in text_metrics(metrics, task)}
    statistics = {key: metric.statistics(predictions, references) for key, metric in found.items()}
    return Judged(
        statistics,
        {key: found[key].by_row(of_metric) for key, of_metric in statistics.items()},
        {key: value_of(found[key], of_metric) for key, of_metric in statistics.items()},
        {key: interval_of(found[key], of_metric, resamples=resamples) for key, of_metric in statistics.items()},
    )


def judged_differences(
    mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray], *, resamples: int, seed: int
) -> dict[str, Difference]:
    """By metric, for those that both have: mine minus theirs, paired over the answers.

    Raises:
        StorageError: the two were not judged on the same answers.
    """
    try:
        return {
            key: difference_of(metric, mine[key], theirs[key], resamples=resamples, seed=seed)
            for key, metric in _by_key().items()
            if key in mine and key in theirs
        }
    except ValueError as error:
        fix = "remove the record.json of both runs: they are then measured again"
        raise StorageError(key="scores", problem=f"answers cannot be paired ({error})", fix=fix) from error


def write_judged(path: Path, judged: Judged) -> None:
    """Write the statistics of each answer atomically and bit for bit: columns METRIC.0, METRIC.1, ...

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    columns = {
        f"{key}.{number}": pa.array(statistics_RK[:, number])
        for key, statistics_RK in judged.statistics.items()
        for number in range(statistics_RK.shape[1])
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    make_folder(path.parent)
    write_bytes(path, buffer.getvalue())


def read_judged(path: Path) -> dict[str, np.ndarray]:
    """By metric, float64 [R, K], as they were written.

    Raises:
        StorageError: there is no such file, or it is not one of judged answers.
    """
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, f"cannot be read ({error})") from error
    columns: dict[str, list[np.ndarray]] = {}
    for name in table.column_names:
        key, _, number = name.rpartition(".")
        if key not in _by_key() or number != str(len(columns.get(key, []))):
            raise _unreadable(path, f"has a column {name}")
        columns.setdefault(key, []).append(table[name].to_numpy().astype(np.float64))
    return {key: np.stack(parts, axis=1) for key, parts in columns.items()}


def _by_key() -> dict[str, TextMetric]:
    """Every metric there is. What the statistics add up to is the same for all tasks."""
    return {metric.key: metric for metric in text_metrics(_METRICS, "qa")}


def _unreadable(path: Path, problem: str) -> StorageError:
    return StorageError(key=str(path), problem=problem, fix="remove this run's record.json: it is then measured again")
