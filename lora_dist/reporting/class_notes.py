"""What is said beside a classifier's numbers: its baselines, its labels, and differences over all seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from lora_dist.errors import StorageError
from lora_dist.reporting.class_rows import class_difference, labels_of
from lora_dist.reporting.measures import ACCURACY, MACRO_F1, Measure
from lora_dist.reporting.names import without_seed
from lora_dist.reporting.rows import NO_DIFFERENCE, QUALITY_SPLIT, Group, Row, settings_of
from lora_dist.reporting.words import listed, percent
from lora_dist.store.record import Record

_UNEVEN = 3.0  # the commonest class over the rarest, from which it is said that accuracy favours the commonest
_SETTINGS_TOLD = 6


def class_notes(groups: Sequence[Group]) -> Iterator[str]:
    """The notes of the groups that are of a classification."""
    for group in groups:
        if group.measure is ACCURACY:
            yield from _head_notes(group)
            yield from _majority_note(group)
            yield from _uneven_note(group)
            yield from _seed_differences(group)


def labels_fact(record: Record) -> str | None:
    """The labels and how many rows of train have each, for the page's list of what was measured."""
    if not record.data.labels or not record.data.label_counts:
        return None
    counts = record.data.label_counts["train"]
    total = sum(counts)
    told = zip(record.data.labels, counts, strict=True)
    return ", ".join(f"{label} {count:,} ({percent(count / total)})" for label, count in told)


def _head_notes(group: Group) -> Iterator[str]:
    """What the zero-shot rows' heads are."""
    drawn = [row.name for row in group.of_kind("base") if row.record and row.record.model.drawn_modules]
    stored = [row.name for row in group.of_kind("base") if row.name not in drawn]
    if drawn:
        yield (
            f"The head of {listed(drawn)} is drawn at random: zero-shot, a classifier knows no class, and its accuracy "
            "is a matter of luck. The other rows begin with a head that is drawn from their seed."
        )
    if stored:
        yield f"The head of {listed(stored)} came with the model, which is a classifier of these very labels."


def _majority_note(group: Group) -> Iterator[str]:
    """What always naming train's commonest class scores, and which trained rows are not shown to beat it."""
    row = next((row for row in group.rows if row.measured(QUALITY_SPLIT, "majority_accuracy") is not None), None)
    if row is None or row.record is None or not row.record.data.label_counts:
        return
    share = row.measured(QUALITY_SPLIT, "majority_accuracy")
    commonest = labels_of(row)[int(np.argmax(row.record.data.label_counts["train"]))]
    found = [(other.name, other.quality()) for other in group.rows if other.run.trains]
    short = [name for name, estimate in found if estimate and (estimate.low or 0.0) <= share]
    rest = f"; the intervals of {listed(short)} do not lie above that" if short else ""
    yield f"Always naming train's commonest label ('{commonest}') scores {percent(share)} accuracy on the test{rest}."


def _uneven_note(group: Group) -> Iterator[str]:
    record = group.rows[0].record
    counts = record.data.label_counts["train"] if record and record.data.label_counts else []
    if counts and max(counts) >= _UNEVEN * min(counts):
        yield (
            f"The labels are uneven ({max(counts) / min(counts):.1f} rows of the commonest to one of the rarest): "
            "accuracy favours the common ones, macro F1 counts all the same."
        )


def _seed_differences(group: Group) -> Iterator[str]:
    """Mean accuracy and macro F1 over the seeds of one setting less those of another, paired over the test rows."""
    rows = [row for row in group.rows if row.seed is not None and row.quality()]
    settings = [seeds for seeds in settings_of(rows) if len(seeds) > 1]
    if len(settings) > _SETTINGS_TOLD:
        return
    for mine, theirs in combinations(settings, 2):
        try:
            told = [_difference_words(measure, mine, theirs) for measure in (ACCURACY, MACRO_F1)]
        except (StorageError, ValueError):  # the table's notes say what is wrong with these scores
            continue
        names = f"{without_seed(mine[0])} minus {without_seed(theirs[0])}"
        yield f"{names}, mean of {_seeds(mine, theirs)}: {'; '.join(told)}."


def _difference_words(measure: Measure, mine: Sequence[Row], theirs: Sequence[Row]) -> str:
    found = class_difference(measure.name, mine, theirs)
    value, interval = measure.difference_words(found.value, found.low, found.high)
    verdict = "" if found.excludes_zero else f": {NO_DIFFERENCE}"
    return f"{value} {interval} {measure.unit}{verdict}"


def _seeds(mine: Sequence[Row], theirs: Sequence[Row]) -> str:
    return f"{len(mine)} seeds" if len(mine) == len(theirs) else f"{len(mine)} and {len(theirs)} seeds"
