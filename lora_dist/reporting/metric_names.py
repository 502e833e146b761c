"""What each metric is called and how its numbers read, for every form of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricName:
    """One metric of `evaluate.test` in a record."""

    key: str
    title: str
    shown: float = 1.0
    """What a value is multiplied by to be shown."""
    lower_is_better: bool = False


PERPLEXITY = MetricName("perplexity", "test ppl", lower_is_better=True)
JUDGED = (
    MetricName("exact_match", "exact match, %", shown=100),
    MetricName("f1", "token F1, %", shown=100),
    MetricName("rouge1", "ROUGE-1", shown=100),
    MetricName("rouge2", "ROUGE-2", shown=100),
    MetricName("rougeL", "ROUGE-L", shown=100),
    MetricName("rougeLsum", "ROUGE-Lsum", shown=100),
    MetricName("bleu", "BLEU"),
)
"""What answers are judged by, all out of 100 as they are shown; the first that a row has speaks for it."""


def judged_metrics(tests: Sequence[dict[str, object]]) -> list[MetricName]:
    """The metrics that any of these records' tests have, in the report's order."""
    return [metric for metric in JUDGED if any(test.get(metric.key) is not None for test in tests)]
