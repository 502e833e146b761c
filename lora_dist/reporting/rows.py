"""The rows of a comparison: one run each, finished or not, with what its record says in the report's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_dist.config.experiment import Experiment, Run
from lora_dist.reporting.measures import PERPLEXITY, Measure, measure_of
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.record import Record
from lora_dist.store.states import RunState

QUALITY_SPLIT = "test"
NO_DIFFERENCE = "no difference shown"
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A measured number with its 95% interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Versus:
    """What was measured of a row on the test split minus that of a reference, paired over the split's rows."""

    reference: str
    """The reference's name."""
    value: float
    low: float
    high: float
    excludes_zero: bool
    """Whether the 95% interval leaves zero out: only then is a difference shown."""
    measure: Measure = PERPLEXITY

    @property
    def verdict(self) -> str:
        """better, worse or `no difference shown`."""
        return ("better" if self.measure.rank(self.value) < 0 else "worse") if self.excludes_zero else NO_DIFFERENCE


@dataclass(frozen=True)
class Row:
    """One run of the comparison. `record` is None unless it is completed."""

    experiment: str
    name: str
    """Short, and different for every row of a report."""
    run: Run
    at: RunState
    versus_base: Versus | None = None
    versus_full: Versus | None = None
    judged: Mapping[str, Mapping[str, Versus]] = field(default_factory=dict)
    """By reference (base, full) and metric: what the answers were judged by, or of a classification macro F1, minus the
    same of the reference."""

    def judged_versus(self, reference: str) -> Mapping[str, Versus]:
        """The differences to the base or to full fine-tuning by metric; empty where none could be taken."""
        return self.judged.get(reference, {})

    @property
    def record(self) -> Record | None:
        """The run's numbers, or None while there are none."""
        return self.at.record

    @property
    def kind(self) -> str:
        """base, lora, qlora, partial or full."""
        return self.run.method.kind

    @property
    def learning_rate(self) -> float | None:
        """The peak rate that was used; None for a run that trains nothing."""
        if self.record and self.record.train:
            return self.record.train.learning_rate
        return self.run.train.learning_rate if self.run.trains else None

    @property
    def settings(self) -> dict[str, Any]:
        """The method's settings that this kind uses."""
        return self.run.method.relevant()

    @property
    def seed(self) -> int | None:
        """The seed of the training; None for a run in which nothing is random."""
        return self.run.seed if self.run.trains else None

    @property
    def trainable_share(self) -> float | None:
        """Trainable parameters as a share of all parameters."""
        model = self.record.model if self.record else None
        return model.parameters_trainable / model.parameters_total if model and model.parameters_total else None

    @property
    def token_hash(self) -> str:
        """Which tokens were scored; empty without a record."""
        return self.record.data.token_hash if self.record else ""

    def measured(self, split: str, metric: str) -> Any:
        """`evaluate.<split>.<metric>` of the record, or None."""
        return self.record.evaluate.get(split, {}).get(metric) if self.record else None

    def estimate(self, split: str, metric: str) -> Estimate | None:
        """A metric on a split with its 95% interval, or None where it was not measured."""
        value = self.measured(split, metric)
        low, high = (self.measured(split, "ci95") or {}).get(metric) or (None, None)
        return None if value is None else Estimate(value, low, high)

    def perplexity(self, split: str = QUALITY_SPLIT) -> Estimate | None:
        """Perplexity on a split."""
        return self.estimate(split, PERPLEXITY.name)

    @property
    def measure(self) -> Measure:
        """What this row is compared by."""
        return measure_of(self.run.data.task)

    def quality(self, split: str = QUALITY_SPLIT) -> Estimate | None:
        """What this row is compared by, on a split."""
        return self.estimate(split, self.measure.name)


@dataclass(frozen=True)
class Group:
    """The finished rows that were scored on the same tokens: only these compare."""

    token_hash: str
    rows: tuple[Row, ...]

    def of_kind(self, *kinds: str) -> list[Row]:
        """The unpruned rows of these kinds that have been measured on the test, in the report's order."""
        return [row for row in self.rows if row.kind in kinds and row.run.prune is None and row.quality()]

    @property
    def measure(self) -> Measure:
        """What its rows are compared by: those that were scored on the same tokens are of one task."""
        return self.rows[0].measure


@dataclass(frozen=True)
class Source:
    """An experiment that the report is about."""

    name: str
    """The folder's name, which is the experiment's; with its parents where two have the same."""
    folder: ExperimentFolder
    experiment: Experiment


@dataclass(frozen=True)
class Comparison:
    """Everything that a report says, before it is laid out."""

    sources: tuple[Source, ...]
    groups: tuple[Group, ...]
    unfinished: tuple[Row, ...]
    notes: tuple[str, ...]
    """What a reader has to know beside the table, one sentence or two each."""

    @property
    def finished(self) -> list[Row]:
        """The rows with a record, group by group."""
        return [row for group in self.groups for row in group.rows]

    @property
    def rows(self) -> list[Row]:
        """All rows: the finished ones, then the others."""
        return [*self.finished, *self.unfinished]


def scores_path(row: Row) -> Path:
    """Where the scores of a row's test rows are."""
    return row.at.folder.scores / f"{QUALITY_SPLIT}.parquet"


def best(rows: Sequence[Row], split: str = QUALITY_SPLIT) -> Row | None:
    """The row with the lowest perplexity (or highest accuracy) on a split, or None where none has one."""
    measured = [
        (row.measure.rank(found.value), index) for index, row in enumerate(rows) if (found := row.quality(split))
    ]
    return rows[min(measured)[1]] if measured else None


def settings_of(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows by setting: those that differ in nothing but their seed together."""
    settings: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        settings.setdefault((row.experiment, row.run.arm, repr(row.run.point)), []).append(row)
    return list(settings.values())
