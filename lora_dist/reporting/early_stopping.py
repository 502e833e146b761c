"""What is said of runs whose model was chosen by the validation loss while they trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_dist.reporting.rows import Group, Row
from lora_dist.reporting.words import listed
from lora_dist.store.record import ValidationPart


def early_stopping_notes(groups: Sequence[Group]) -> Iterator[str]:
    """Which step each model is of, and which runs would have gone on falling."""
    found = [(row, part) for group in groups for row in group.rows if (part := _chosen(row))]
    if not found:
        return
    yield f"Early stopping: each model is that of the lowest validation loss. {'; '.join(map(_told, found))}."
    falling = [row.name for row, part in found if part.best_step == part.steps_planned]
    if falling:
        yield f"The validation loss of {listed(falling)} was lowest after the last step: more may lower it further."


def _chosen(row: Row) -> ValidationPart | None:
    part = row.record.train.validation if row.record and row.record.train else None
    return part if part and part.keeps_best else None


def _told(found: tuple[Row, ValidationPart]) -> str:
    row, part = found
    steps = row.record.train.steps if row.record and row.record.train else 0
    ended = f", ended at {steps:,}" if steps < part.steps_planned else ""
    return f"{row.name}: {part.best_loss:.4g} at step {part.best_step:,} of {part.steps_planned:,}{ended}"
