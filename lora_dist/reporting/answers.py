"""The answers to the test prompts: a table of what they were judged by, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_dist.reporting.cells import Cell, SideTable, groups_of, references, versus_cell
from lora_dist.reporting.measures import Measure, judged_by
from lora_dist.reporting.rows import QUALITY_SPLIT, Comparison, Group, Row
from lora_dist.reporting.words import NOTHING, duration, listed, percent, speed

TITLE = "Answers to the test prompts"
_MANY_UNFINISHED = 0.05


def answers_tables(comparison: Comparison) -> list[SideTable]:
    """A table for each group in which answers were judged."""
    return [table for heading, group in groups_of(comparison) if (table := _table(comparison, heading, group))]


def _table(comparison: Comparison, heading: str, group: Group) -> SideTable | None:
    rows = [row for row in group.rows if judged_of(row)]
    if not rows:
        return None
    metrics = judged_by([test for row in rows if (test := _test(row))])
    main = metrics[0]
    columns = [("arm", 9, lambda row: Cell((row.name,)))]
    for metric in metrics:
        columns.append((metric.title, 9 if metric is main else 4, lambda row, metric=metric: _value(row, metric)))
    for title, name in (("vs base", "base"), ("vs full", "full")):
        if any(main.name in row.judged_versus(name) for row in rows):
            known = references(comparison, name)
            columns.append((title, 8, lambda row, name=name, known=known: _versus(row, name, main, known)))
    columns += [("cut off", 3, _cut_off), ("speed", 2, _speed)]
    titles, worths, getters = zip(*columns, strict=True)
    title = f"{TITLE} ({heading})" if heading else TITLE
    cells = tuple(tuple(getter(row) for getter in getters) for row in rows)
    return SideTable(title, titles, cells, worths=worths)


def judged_of(row: Row) -> int:
    """How many answers of a row were judged."""
    return row.record.generation.judged if row.record and row.record.generation else 0


def _test(row: Row) -> dict[str, object]:
    return row.record.evaluate.get(QUALITY_SPLIT, {}) if row.record else {}


def _value(row: Row, metric: Measure) -> Cell:
    estimate = row.estimate(QUALITY_SPLIT, metric.name)
    if estimate is None:
        return Cell((NOTHING,))
    value, interval = metric.value_words(estimate.value, estimate.low, estimate.high)
    return Cell((value, interval) if interval else (value,))


def _versus(row: Row, name: str, metric: Measure, known: set[str]) -> Cell:
    return versus_cell(row.judged_versus(name).get(metric.name), is_reference=row.name in known)


def _cut_off(row: Row) -> Cell:
    generation = row.record.generation if row.record else None
    if generation is None or generation.unfinished is None or not generation.prompts:
        return Cell((NOTHING,))
    return Cell((percent(generation.unfinished / generation.prompts),))


def _speed(row: Row) -> Cell:
    """Tokens per second of all prompts in batches, and the seconds that an answer took, so to say its latency there."""
    generation = row.record.generation if row.record else None
    if generation is None or not generation.prompts:
        return Cell((NOTHING,))
    each = f"{duration(generation.seconds / generation.prompts)} each"
    return Cell((speed(generation.tokens_per_second), each))


def answer_notes(groups: Sequence[Group]) -> Iterator[str]:
    """What a reader of the answers has to know beside their table."""
    rows = [row for group in groups for row in group.rows if row.record and judged_of(row)]
    cut = [row.name for row in rows if _unfinished_share(row) > _MANY_UNFINISHED]
    if cut:
        yield (
            f"More than {percent(_MANY_UNFINISHED)} of the answers of {listed(cut)} were cut off before they ended: "
            "they are judged as they stand (evaluate.max_new_tokens)."
        )
    for group in groups:
        judged = {judged_of(row) for row in group.rows if judged_of(row)}
        if len(judged) > 1:
            numbers = listed([str(number) for number in sorted(judged)])
            yield f"Rows were judged on different numbers of answers ({numbers}): they are not compared."
        shots = {row.record.generation.shots for row in group.rows if row.record and judged_of(row)}  # type: ignore[union-attr]
        if len(shots) > 1:
            yield "Rows differ in the examples before their prompts (evaluate.shots): their answers do not compare."
        elif shots and max(shots):
            yield f"Answers were generated after {max(shots)} solved examples of the train split; perplexity has none."


def _unfinished_share(row: Row) -> float:
    generation = row.record.generation if row.record else None
    return (generation.unfinished or 0) / generation.prompts if generation and generation.prompts else 0.0


def answer_sentences(group: Group) -> list[str]:
    """The answer in words, by the first metric: which run answers best, and what it gained."""
    rows = [row for row in group.rows if judged_of(row)]
    metrics = judged_by([_test(row) for row in rows])
    if not metrics:
        return []
    main = metrics[0]
    top = max(rows, key=lambda row: found.value if (found := row.estimate(QUALITY_SPLIT, main.name)) else -1.0)
    cell = " ".join(_value(top, main).lines)
    sentence = f"Best {main.title} on the test prompts: {top.name} with {cell}"
    told = [
        words for name, reference in (("base", "the base model"), ("full", "full fine-tuning"))
        if (words := _difference(top, name, reference, main))
    ]  # fmt: skip
    return [f"{sentence}{'; ' if told else ''}{listed(told)}."]


def _difference(row: Row, name: str, reference: str, metric: Measure) -> str:
    versus = row.judged_versus(name).get(metric.name)
    if versus is None:
        return ""
    value, interval = metric.difference_words(versus.value, versus.low, versus.high)
    verdict = f"{versus.verdict} than" if versus.excludes_zero else "no difference shown to"
    return f"{verdict} {reference} ({value} {interval})"
