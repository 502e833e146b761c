"""What becomes of an adapter when it is merged: a table of forms, and what has to be said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lora_dist.evaluation.statistics import FEWEST_ROWS
from lora_dist.reporting.cells import Cell, SideTable
from lora_dist.reporting.rows import NO_DIFFERENCE, QUALITY_SPLIT, Comparison, Group, Row
from lora_dist.reporting.words import NOTHING, listed, percent, perplexity, setting, with_interval
from lora_dist.store.record import MergedForm

FILE_NAME = "merging.csv"
_TITLE = "Before and after merging"
_HEADINGS = ("arm", "form", "test ppl", "vs trained", "zeros")
TRAINED = "trained"
SAME = 1e-5
"""Relative difference of perplexities up to which they are the same: what float32 rounds."""
_WORDS = {
    "base_4bit": "4-bit base",
    "adapter_4bit": "4-bit base + adapter",
    "adapter": "base + adapter",
    "merged": "merged",
    "merged_rounded": "merged, as the base is stored",
    "merged_masked": "merged with a mask",
}
_FILLED = 0.005


@dataclass(frozen=True)
class FormRow:
    """One form of one run's adapter and base."""

    row: Row
    form: MergedForm
    is_first: bool
    is_last: bool

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Under the table's headings."""
        low, high = self.form.ci95["perplexity"]
        value, interval = with_interval(self.form.perplexity, low, high, digits=3)
        zeros = NOTHING if self.form.zeros is None else percent(self.form.zeros)
        return (
            Cell((self.row.name,) if self.is_first else ("",)),
            Cell((_words(self), self.form.dtype)),
            Cell((value, interval)),
            self._versus,
            Cell((zeros,)),
        )

    @property
    def is_trained(self) -> bool:
        """Whether this is the form that training had."""
        return self.form.versus_trained is None

    @property
    def is_same(self) -> bool:
        """Whether the perplexity is that of what was trained, but for rounding."""
        return self.form.versus_trained is not None and abs(self.form.versus_trained[0]) <= SAME * self.form.perplexity

    @property
    def verdict(self) -> str:
        """better, worse or `no difference shown`, against what was trained; empty where it is that or the same."""
        if self.form.versus_trained is None or self.is_same:
            return ""
        value, low, high = self.form.versus_trained
        if low <= 0 <= high or self.row.measured(QUALITY_SPLIT, "examples") < FEWEST_ROWS:
            return NO_DIFFERENCE
        return "better" if value < 0 else "worse"

    @property
    def _versus(self) -> Cell:
        if self.form.versus_trained is None:
            return Cell((TRAINED,))
        if self.is_same:
            return Cell(("the same", f"to {setting(SAME)}"))
        return Cell(with_interval(*self.form.versus_trained, signed=True), self.verdict)

    def values(self) -> dict[str, Any]:
        """Under the names of `FORM_COLUMNS`, in full precision."""
        low, high = self.form.ci95["perplexity"]
        versus = self.form.versus_trained or (None, None, None)
        found = (
            self.row.experiment, self.row.run.id, self.row.name, self.row.seed, self.form.form, self.form.dtype,
            self.form.perplexity, low, high, *versus, self.form.zeros, self.form.filled, self.form.nll_sum,
            self.form.scored_tokens,
        )  # fmt: skip
        return dict(zip(FORM_COLUMNS, found, strict=True))


FORM_COLUMNS = (
    "experiment", "run", "name", "seed", "form", "dtype", "perplexity", "perplexity_low", "perplexity_high",
    "versus_trained", "versus_trained_low", "versus_trained_high", "zeros", "filled", "nll_sum", "scored_tokens",
)  # fmt: skip


def forms(comparison: Comparison) -> list[FormRow]:
    """Every form that was measured, run by run."""
    return [form for row in comparison.finished for form in _forms_of(row)]


def merging_table(comparison: Comparison) -> SideTable | None:
    """What becomes of each adapter when it is merged, or None where that was not measured."""
    found = forms(comparison)
    if not found:
        return None
    ends = frozenset(number for number, row in enumerate(found) if row.is_last)
    return SideTable(_TITLE, _HEADINGS, tuple(row.cells for row in found), texts=2, ends=ends)


def _forms_of(row: Row) -> list[FormRow]:
    found = row.record.merging if row.record else []
    last = len(found) - 1
    return [FormRow(row, form, number == 0, number == last) for number, form in enumerate(found)]


def _words(row: FormRow) -> str:
    """On a quantised run the base of `adapter` is not the one that was trained on."""
    if row.form.form == "adapter" and not row.is_trained:
        return "16-bit base + adapter" if row.form.dtype != "float32" else "unquantised base + adapter"
    return _WORDS[row.form.form]


def merging_notes(groups: Sequence[Group]) -> Iterator[str]:
    """What merging costs, where it costs something, in a sentence for each kind of loss."""
    rows = [row for group in groups for row in group.rows]
    found = {row.name: {form.form.form: form for form in _forms_of(row)} for row in rows}
    filled = [
        name for name, of_row in found.items() if "merged" in of_row and (of_row["merged"].form.filled or 0) > _FILLED
    ]
    if filled:
        yield (
            f"Merging {listed(filled)} fills the zeros of the pruned base again: the update was trained without its "
            "mask. method.preserve_sparsity=true keeps them."
        )
    for row in rows:
        if row.record and row.record.merging_problem:
            yield f"What merging {row.name} gives was not measured: {row.record.merging_problem}."
    for name, of_row in found.items():
        masked = of_row.get("merged_masked")
        if masked is not None and masked.verdict == "worse":
            value = masked.form.versus_trained[0]  # type: ignore[index]
            yield f"Merging {name} with a mask that it was not trained with costs {perplexity(value)} perplexity."
        merged, trained = of_row.get("merged"), of_row.get("adapter_4bit")
        if merged is not None and trained is not None and merged.verdict in ("better", "worse"):
            value, interval = with_interval(*merged.form.versus_trained, signed=True)  # type: ignore[misc]
            yield f"{name} was trained on a 4-bit base; merged into unquantised weights: {value} {interval} perplexity."
