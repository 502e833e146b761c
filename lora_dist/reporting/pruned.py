"""What is said of pruned rows: how far, by what, at what cost, and where it is an approximation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_dist.reporting.rows import Group, Row, Versus, best
from lora_dist.reporting.words import count, duration, listed, percent, size, with_interval
from lora_dist.store.record import Record

KIND_WORDS = {"sparsegpt": "SparseGPT", "wanda": "Wanda", "magnitude": "magnitude pruning"}
_GOALS_TOLD = 4
_REFILLED = 0.005
"""Share of the pruned linears' weights from which it is said that training has filled zeros again."""


def is_approximate(row: Row) -> bool:
    """Whether blocks were pruned by the inputs that dense blocks gave them."""
    section = row.run.prune
    return section is not None and section.uses_data and section.mode == "dense_inputs"


def goal_words(row: Row) -> str:
    """How far a row is pruned: 50%, or 2:4; empty for a dense one."""
    section = row.run.prune
    if section is None:
        return ""
    return section.pattern or percent(section.sparsity)


def pruned_lines(row: Row) -> tuple[str, ...]:
    """The lines of a table's cell; empty for a dense row."""
    section = row.run.prune
    if section is None:
        return ()
    return (goal_words(row), section.kind, *(["approximate"] if is_approximate(row) else []))


def pruned_sentences(group: Group) -> Iterator[str]:
    """For each goal the best row that is only pruned, and the best that is also trained, beside the dense base."""
    pruned = [row for row in group.rows if row.run.prune and row.perplexity()]
    goals = list(dict.fromkeys(goal_words(row) for row in sorted(pruned, key=_zeros)))
    for goal in goals[:_GOALS_TOLD]:
        for rows, how in (
            ([row for row in pruned if goal_words(row) == goal and row.kind == "base"], ""),
            ([row for row in pruned if goal_words(row) == goal and row.kind != "base"], " and trained"),
        ):
            row = best(rows)
            if row is not None and row.versus_base is not None:
                several = f", the best of {len(rows)}," if len(rows) > 1 else ""
                yield f"Pruned to {goal}{how}, {row.name}{several} is {_against_dense(row.versus_base)}."


def _zeros(row: Row) -> float:
    return row.record.prune.sparsity if row.record and row.record.prune else 0.0


def _against_dense(versus: Versus) -> str:
    if not versus.excludes_zero:
        value, interval = with_interval(versus.value, versus.low, versus.high, signed=True)
        return f"not shown to differ from the dense base model ({value} {interval} perplexity)"
    value, interval = with_interval(abs(versus.value), *sorted((abs(versus.low), abs(versus.high))))
    return f"{value} perplexity {interval} {versus.verdict} than the dense base model"


def pruned_notes(groups: Sequence[Group]) -> Iterator[str]:
    """Where a pruned row is not what its reader may take it for."""
    rows = [row for group in groups for row in group.rows if row.record and row.record.prune]
    approximate = [row.name for row in rows if is_approximate(row)]
    if approximate:
        yield (
            f"Approximate: {listed(approximate)}. In prune.mode dense_inputs each block is pruned by the inputs that "
            "the dense model gives it, not the pruned one."
        )
    for row in rows:
        part = row.record.prune  # type: ignore[union-attr]
        if part.measured_sparsity is not None and part.sparsity - part.measured_sparsity > _REFILLED:
            yield (
                f"{row.name} was pruned to {percent(part.sparsity)} zeros and has {percent(part.measured_sparsity)} "
                "after its training: fine-tuning whole weights fills the zeros again."
            )
    damped = [
        f"{row.name} ({part.largest_damping:g})"
        for row in rows
        if (part := row.record.prune) and row.run.prune and (part.largest_damping or 0) > row.run.prune.damping  # type: ignore[union-attr]
    ]
    if damped:
        yield f"A Hessian took more than the damping that was asked for in {listed(damped)}."


def pruning_fact(record: Record) -> str | None:
    """How a row was pruned, for the page's list of what was measured."""
    part = record.prune
    if part is None:
        return None
    calibration = (
        f"calibrated on {part.calibration_samples} x {part.calibration_length:,} tokens "
        f"({part.calibration_hash[:12]}), {'dense inputs (approximate)' if part.is_approximate else 'exact'}"
        if part.calibration_samples
        else "no calibration"
    )
    ranks = f" on {part.world_size} ranks" if part.world_size > 1 else ""
    return (
        f"{KIND_WORDS[part.kind]}, {percent(part.sparsity)} of {count(part.weights)} weights in {part.linears} linears "
        f"zero, {calibration}; {duration(part.seconds)}{ranks}, peak {size(part.peak_memory_bytes)} "
        f"{part.peak_memory_kind}"
    )
