"""What rows are compared by: perplexity, or of a classification accuracy. The place where tasks part in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_dist.config.classification import TASK as CLASSIFICATION
from lora_dist.reporting.words import with_interval


@dataclass(frozen=True)
class Measure:
    """A number by which rows are ranked, and how it is told."""

    name: str
    """In records, under evaluate.<split>."""
    unit: str
    """What follows a difference."""
    is_lower_better: bool
    scale: float = 1.0
    """What is shown is this many times what records hold."""
    sign: str = ""
    """What follows a value."""
    loss_unit: str = "nats per token"
    title: str = ""
    """Over a column; the name where it is left out."""

    @property
    def best(self) -> str:
        """How the best row is introduced."""
        return f"{'Lowest' if self.is_lower_better else 'Highest'} test {self.name}"

    @property
    def axis(self) -> str:
        """The label of an axis."""
        unit = f", {self.sign}" if self.sign else ""
        return f"test {self.title or self.name}{unit} ({'lower' if self.is_lower_better else 'higher'} is better)"

    def rank(self, value: float) -> float:
        """A number that is lower the better `value` is."""
        return value if self.is_lower_better else -value

    def value_words(self, value: float, low: float | None = None, high: float | None = None) -> tuple[str, str]:
        """A value and its interval, with as many digits as show the interval's width."""
        digits, least = (2, 1) if self.sign else (3, 0)
        text, interval = with_interval(*self._scaled(value, low, high), digits=digits, least_decimals=least)
        return f"{text}{self.sign}", interval

    def difference_words(self, value: float, low: float, high: float, *, signed: bool = True) -> tuple[str, str]:
        """A difference and its interval; without sign their amounts."""
        if not signed:
            value, (low, high) = abs(value), sorted((abs(low), abs(high)))
        least = 1 if self.sign else 0
        return with_interval(*self._scaled(value, low, high), signed=signed, least_decimals=least)

    def _scaled(self, *values: float | None) -> tuple[float, float | None, float | None]:
        first, *rest = (None if value is None else value * self.scale for value in values)
        return first or 0.0, *rest


PERPLEXITY = Measure("perplexity", "perplexity", is_lower_better=True)
ACCURACY = Measure(
    "accuracy", "points of accuracy", is_lower_better=False, scale=100, sign="%", loss_unit="nats per row"
)

MACRO_F1 = Measure("f1_macro", "points of macro F1", is_lower_better=False, scale=100, sign="%", title="F1 macro")

JUDGED = (
    Measure("exact_match", "points of exact match", is_lower_better=False, scale=100, sign="%", title="exact match"),
    Measure("f1", "points of F1", is_lower_better=False, scale=100, sign="%", title="token F1"),
    Measure("rouge1", "ROUGE-1", is_lower_better=False, scale=100, title="ROUGE-1"),
    Measure("rouge2", "ROUGE-2", is_lower_better=False, scale=100, title="ROUGE-2"),
    Measure("rougeL", "ROUGE-L", is_lower_better=False, scale=100, title="ROUGE-L"),
    Measure("rougeLsum", "ROUGE-Lsum", is_lower_better=False, scale=100, title="ROUGE-Lsum"),
    Measure("bleu", "BLEU", is_lower_better=False, title="BLEU"),
)
"""What answers are judged by, all out of 100 as they are shown; the first that a row has speaks for its answers."""


def judged_by(tests: Sequence[Mapping[str, Any]]) -> list[Measure]:
    """What the answers of any of these records' tests were judged by, in the report's order."""
    return [measure for measure in JUDGED if any(test.get(measure.name) is not None for test in tests)]


def measure_of(task: str) -> Measure:
    """What the rows of a task are compared by."""
    return ACCURACY if task == CLASSIFICATION else PERPLEXITY
