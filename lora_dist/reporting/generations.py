"""The same prompts continued by every arm, side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lora_dist.reporting.rows import Group
from lora_dist.reporting.words import readable
from lora_dist.store.lines import read_lines


@dataclass
class Sample:
    """One prompt of the test split with its reference and the continuation of every row that has one."""

    prompt: str
    reference: str
    continuations: list[tuple[str, str]] = field(default_factory=list)
    """(name of the row, what it wrote)"""


def read_samples(group: Group) -> list[Sample]:
    """The samples of a group's rows, in the order in which the first row has them: as many of the answers as
    `evaluate.samples` says, however many were judged."""
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
