"""The same prompts continued by every arm, side by side; of classifiers, rows that the best one gets wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from lora_dist.errors import StorageError
from lora_dist.reporting.class_rows import class_scores, labels_of
from lora_dist.reporting.measures import ACCURACY
from lora_dist.reporting.rows import Group, Row, best
from lora_dist.reporting.words import readable
from lora_dist.store.lines import read_lines


@dataclass
class Sample:
    """One prompt of the test split with its reference and the continuation of every row that has one."""

    prompt: str
    reference: str
    continuations: list[tuple[str, str]] = field(default_factory=list)
    """(name of the row, what it wrote)"""
    headings: tuple[str, str] = ("Prompt", "Reference")
    """What prompt and reference are called."""


def read_samples(group: Group) -> list[Sample]:
    """The samples of a group's rows, in the order in which the first row has them: as many of the answers as
    `evaluate.samples` says, however many were judged."""
    if group.measure is ACCURACY:
        return _wrong_rows(group)
    samples: dict[tuple[int, str], Sample] = {}
    for row in group.rows:
        for line in islice(read_lines(row.at.folder.predictions), row.run.evaluate.samples):
            prompt, reference, prediction = (
                readable(line.get(key, "")) for key in ("prompt", "reference", "prediction")
            )
            sample = samples.setdefault((line.get("row", -1), prompt), Sample(prompt, reference))
            sample.continuations.append((f"{row.name}{_verdict(line.get('score'))}", prediction))
    return list(samples.values())


def _verdict(score: Any) -> str:
    """right or wrong, for answers that are one of the two."""
    match = score.get("exact_match") if isinstance(score, dict) else None
    return "" if match is None else " (right)" if match == 1 else " (wrong)"


def _wrong_rows(group: Group) -> list[Sample]:
    """Test rows that the best classifier takes for another class, and what every row of the group says of them."""
    top = best(group.rows)
    if top is None:
        return []
    said = [(row.name, labels_of(row), _predicted(row)) for row in group.rows]
    return [
        Sample(
            readable(line["prompt"]),
            readable(line["reference"]),
            [(name, readable(labels[given[line["row"]]])) for name, labels, given in said if given is not None],
            ("Text", "Label"),
        )
        for line in read_lines(top.at.folder.predictions)
    ]


def _predicted(row: Row) -> np.ndarray | None:
    """The class that each test row was given; None without scores, which the table's notes tell of."""
    try:
        return class_scores(row).predicted_R
    except StorageError:
        return None
