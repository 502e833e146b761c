"""What stands in the table's cells, once for the terminal, the Markdown and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lora_dist.reporting.measures import ACCURACY
from lora_dist.reporting.pruned import pruned_lines
from lora_dist.reporting.rows import Comparison, Group, Row, Versus
from lora_dist.reporting.words import NOTHING, count, duration, percent, setting, size, speed, with_interval

REFERENCE = "reference"


@dataclass(frozen=True)
class Cell:
    """One or two short lines; `verdict` is better, worse, `no difference shown` or empty."""

    lines: tuple[str, ...]
    verdict: str = ""


@dataclass(frozen=True)
class Column:
    """One column of the comparison."""

    title: str
    cell: Callable[[Row], Cell]
    numeric: bool = True
    worth: int = 9
    """What a narrow terminal drops first: the lowest."""


@dataclass(frozen=True)
class SideTable:
    """A table beside the comparison, as every form of the report lays it out."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    """A cell under each heading."""
    texts: int = 1
    """How many of the first columns are words; the others are numbers."""
    ends: frozenset[int] = frozenset()
    """Rows after which a part of the table ends."""
    worths: tuple[int, ...] = ()
    """What a narrow terminal drops first, as of `Column`; all are kept where it is left out."""

    def without(self, column: int) -> SideTable:
        """The same without one of its columns."""
        cut = lambda cells: (*cells[:column], *cells[column + 1 :])  # noqa: E731
        return replace(
            self, headings=cut(self.headings), rows=tuple(map(cut, self.rows)), worths=cut(self.worths),
            texts=self.texts - (column < self.texts),
        )  # fmt: skip


def columns_for(comparison: Comparison) -> list[Column]:
    """The columns that have something to say about these rows."""
    rows = comparison.finished
    bases, fulls = references(comparison, "base"), references(comparison, "full")
    columns = [
        Column("arm", _arm, numeric=False),
        Column("pruned", _pruned, numeric=False),
        Column("test ppl", lambda row: _perplexity(row, "test")),
        Column("accuracy", lambda row: _metric(row, "test", "accuracy")),
        Column("F1 macro", lambda row: _metric(row, "test", "f1_macro")),
        Column("F1 weighted", lambda row: _metric(row, "test", "f1_weighted"), worth=4),
        Column("vs base", lambda row: versus_cell(row.versus_base, is_reference=row.name in bases)),
        Column("vs full", lambda row: versus_cell(row.versus_full, is_reference=row.name in fulls)),
        Column("train ppl", lambda row: _perplexity(row, "train"), worth=2),
        Column("train accuracy", lambda row: _metric(row, "train", "accuracy"), worth=2),
        Column("trainable", _trainable, worth=7),
        Column("time/epoch", _time, worth=6),
        Column("peak memory", _memory, worth=5),
        Column("generation", _generation, worth=1),
    ]
    if len(comparison.groups) > 1:
        columns.insert(3, Column("bits/byte", _bits_per_byte, worth=8))
    return [column for column in columns if any(column.cell(row).lines != (NOTHING,) for row in rows)]


def settings_words(row: Row) -> str:
    """What the name leaves unsaid of rank, virtual tokens, alpha and learning rate: alpha 32 lr 2e-4.

    A seed that matters is in the name: every trained arm has every seed.
    """
    parts = [f"r{row.settings['rank']}" if "rank" in row.settings else ""]
    parts.append(f"alpha {row.settings['alpha']:g}" if "alpha" in row.settings else "")
    tokens = row.settings.get("virtual_tokens")
    parts.append(f"{tokens} virtual tokens" if tokens and f" {tokens} " not in f" {row.name} " else "")
    parts.append(f"top {row.settings['top_blocks']}" if "top_blocks" in row.settings else "")
    parts.append(f"lr {setting(row.learning_rate)}" if row.learning_rate else "")
    parts.append("" if row.run.trains else "zero-shot")
    return " ".join(part for part in parts if part and f" {part} " not in f" {row.name} ")


def _arm(row: Row) -> Cell:
    kind = "" if row.kind == row.run.arm else f"{row.kind} "
    settings = kind + settings_words(row)
    return Cell((row.name, settings) if settings else (row.name,))


def _pruned(row: Row) -> Cell:
    return Cell(pruned_lines(row) or (NOTHING,))


def _trainable(row: Row) -> Cell:
    if row.record is None:
        return Cell((NOTHING,))
    number = row.record.model.parameters_trainable
    return Cell((count(number), percent(row.trainable_share))) if number else Cell(("0",))


def _time(row: Row) -> Cell:
    train = row.record.train if row.record else None
    return Cell((duration(train.seconds_per_epoch), speed(train.tokens_per_second))) if train else Cell((NOTHING,))


def _memory(row: Row) -> Cell:
    train = row.record.train if row.record else None
    return Cell((size(train.peak_memory_bytes), train.peak_memory_kind)) if train else Cell((NOTHING,))


def _generation(row: Row) -> Cell:
    generation = row.record.generation if row.record else None
    return Cell((speed(generation.tokens_per_second),)) if generation else Cell((NOTHING,))


def _perplexity(row: Row, split: str) -> Cell:
    estimate = row.perplexity(split)
    if estimate is None:
        return Cell((NOTHING,))
    value, interval = with_interval(estimate.value, estimate.low, estimate.high, digits=3)
    return Cell((value, interval) if interval else (value,))


def _metric(row: Row, split: str, metric: str) -> Cell:
    """A classifier's metric, as a share of 100."""
    estimate = row.estimate(split, metric)
    if estimate is None:
        return Cell((NOTHING,))
    value, interval = ACCURACY.value_words(estimate.value, estimate.low, estimate.high)
    return Cell((value, interval) if interval else (value,))


def versus_cell(versus: Versus | None, *, is_reference: bool) -> Cell:
    """A difference with its interval and its verdict."""
    if versus is None:
        return Cell((REFERENCE if is_reference else NOTHING,))
    value, interval = versus.measure.difference_words(versus.value, versus.low, versus.high)
    return Cell((value, interval), versus.verdict)


def references(comparison: Comparison, kind: str) -> set[str]:
    """The rows of this kind that others are compared with, or that stand alone; by name."""
    names = {group.of_kind(kind)[0].name for group in comparison.groups if len(group.of_kind(kind)) == 1}
    for row in comparison.finished:
        versus = row.versus_base if kind == "base" else row.versus_full
        names |= {versus.reference} if versus else set()
    return names


def _bits_per_byte(row: Row) -> Cell:
    value = row.measured("test", "bits_per_byte")
    return Cell((NOTHING if value is None else f"{value:.4f}",))


def groups_of(comparison: Comparison) -> Sequence[tuple[str, Group]]:
    """The groups with the heading each needs: none while there is only one."""
    if len(comparison.groups) < 2:
        return [("", group) for group in comparison.groups]
    return [(f"tokens {group.token_hash[:12]}", group) for group in comparison.groups]
