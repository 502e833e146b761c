"""Differences to the base model and to full fine-tuning, paired over the rows of the test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean

import numpy as np

from lora_dist.errors import StorageError
from lora_dist.evaluation.generated_scores import judged_differences, read_judged
from lora_dist.evaluation.scores import read_scores
from lora_dist.evaluation.statistics import Difference, perplexity_difference
from lora_dist.reporting.class_rows import class_difference
from lora_dist.reporting.measures import JUDGED, MACRO_F1, PERPLEXITY, Measure
from lora_dist.reporting.rows import BOOTSTRAP_SEED, QUALITY_SPLIT, Group, Row, Versus, scores_path, settings_of

_SCORES_KEPT = 64  # score files in memory at once: references are read again and again


def with_differences(group: Group) -> tuple[Group, list[str]]:
    """The group with each row's difference to its references, and a note for each that could not be taken."""
    rows: list[Row] = []
    notes: list[str] = []
    for row in group.rows:
        found: dict[str, Versus | None] = {}
        judged: dict[str, dict[str, Versus]] = {}
        for name, reference in (("base", base_for(row, group)), ("full", full_for(row, group))):
            found[f"versus_{name}"], problem = _versus(row, reference)
            judged[name], other = _also_versus(row, reference)
            notes += [said for said in (problem, other) if said]
        rows.append(dataclasses.replace(row, **found, judged=judged))
    return dataclasses.replace(group, rows=tuple(rows)), list(dict.fromkeys(notes))


def base_for(row: Row, group: Group) -> Row | None:
    """The zero-shot row that `row` is compared with: of its model and its experiment where there is one."""
    return next(iter(_nearest(row, group.of_kind("base"))), None)


def full_for(row: Row, group: Group) -> Row | None:
    """The full fine-tuning that `row` is compared with: of its model, its experiment and its seed where there is one.

    Of several (a sweep of learning rates) it is the best one, on validation if that was scored: a LoRA that beats a
    badly tuned full fine-tuning has shown nothing.
    """
    candidates = _nearest(row, group.of_kind("full"))
    seeds = {full.seed for full in candidates}
    seed = row.seed if row.seed in seeds else candidates[0].seed if candidates else None
    return chosen([full for full in candidates if full.seed == seed])


def chosen(rows: Sequence[Row]) -> Row | None:
    """The first seed of the best setting: best mean quality over its seeds, on the split that selects.

    Picking the best single run instead would reward a method for having had more seeds.
    """
    split = selection_split(rows)

    def mean(seeds: list[Row]) -> float:
        return fmean(row.measure.rank(found.value) for row in seeds if (found := row.quality(split)))

    return min(settings_of(rows), key=mean)[0] if rows else None


def selection_split(rows: Sequence[Row]) -> str:
    """The split that picks between settings: validation where every row has it, so that the test stays unseen."""
    return "validation" if rows and all(row.quality("validation") for row in rows) else QUALITY_SPLIT


def difference(row: Row, reference: Row) -> Versus:
    """Test perplexity (or accuracy) of `row` minus that of `reference`, with a paired bootstrap interval.

    Raises:
        StorageError: the scores of one of them are missing, unreadable, or not of the same tokens.
    """
    resamples = row.run.evaluate.bootstrap_samples
    try:
        if row.measure is PERPLEXITY:
            found = perplexity_difference(*_scores(row), *_scores(reference), resamples=resamples, seed=BOOTSTRAP_SEED)
        else:
            found = class_difference(row.measure.name, [row], [reference])
    except ValueError as error:
        raise StorageError(
            key=str(scores_path(row)),
            problem=f"its rows cannot be paired with those of {reference.name} ({error})",
            fix="remove the record.json of both runs: they are then measured again",
        ) from error
    return _told(found, reference, row.measure)


def _versus(row: Row, reference: Row | None) -> tuple[Versus | None, str]:
    """The difference, or None with the reason why it could not be taken (empty when there is nothing to compare)."""
    if reference is None or reference is row or row.quality() is None:
        return None, ""
    try:
        return difference(row, reference), ""
    except StorageError as error:
        return None, f"No difference between {row.name} and {reference.name}: {error}."


def _also_versus(row: Row, reference: Row | None) -> tuple[dict[str, Versus], str]:
    """The differences by the other metrics that a task has, and why they could not be taken."""
    if row.measure is PERPLEXITY:
        return _judged_versus(row, reference)
    if reference is None or reference is row or row.quality() is None:
        return {}, ""
    try:
        found = class_difference(MACRO_F1.name, [row], [reference])
    except (StorageError, ValueError):  # said of the accuracy
        return {}, ""
    return {MACRO_F1.name: _told(found, reference, MACRO_F1)}, ""


def _judged_versus(row: Row, reference: Row | None) -> tuple[dict[str, Versus], str]:
    """The difference of what answers were judged by, for metrics that both rows have over equally many answers."""
    if reference is None or reference is row or not (_judged(row) and _judged(row) == _judged(reference)):
        return {}, ""
    try:
        mine, theirs = (read_judged(other.at.folder.judged) for other in (row, reference))
        found = judged_differences(mine, theirs, resamples=row.run.evaluate.bootstrap_samples, seed=BOOTSTRAP_SEED)
    except StorageError as error:
        return {}, f"No difference of the answers of {row.name} and {reference.name}: {error}."
    measures = {measure.name: measure for measure in JUDGED}
    return {metric: _told(part, reference, measures[metric]) for metric, part in found.items()}, ""


def _told(found: Difference, reference: Row, measure: Measure) -> Versus:
    return Versus(reference.name, found.value, found.low, found.high, found.excludes_zero, measure)


def _judged(row: Row) -> tuple[int, int] | None:
    """How many answers were judged, and after how many examples; None where none were."""
    generation = row.record.generation if row.record else None
    return (generation.judged, generation.shots) if generation and generation.judged else None


def _nearest(row: Row, candidates: list[Row]) -> list[Row]:
    """The candidates of the row's model, and of those the ones of its experiment; where there are none, the others."""
    candidates = [other for other in candidates if other.run.model.path == row.run.model.path] or candidates
    return [other for other in candidates if other.experiment == row.experiment] or candidates


def _scores(row: Row) -> tuple[np.ndarray, np.ndarray]:
    path = scores_path(row)
    return _read_once((path, path.stat().st_mtime_ns if path.exists() else 0))


@lru_cache(maxsize=_SCORES_KEPT)
def _read_once(version: tuple[Path, int]) -> tuple[np.ndarray, np.ndarray]:
    """Nll (nats) and scored tokens of each row of a file as it was at one time: measured again, it is read again."""
    return read_scores(version[0])
