"""What runs that failed on a cluster tell, read from their logs: only when somebody asks, and only theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lora_dist.dispatch.failures import failure_of
from lora_dist.reporting.status_table import StatusRow
from lora_dist.store.folders import ExperimentFolder


def explained(rows: Sequence[StatusRow], folder: Path | str, most: int | None = None) -> list[StatusRow]:
    """The rows, those of failed runs with a report of the failure.

    Args:
        most: look at the logs of no more than the first so many that need somebody; None for all.
    """
    place = ExperimentFolder(Path(folder))
    needy = [row.run for row in rows if row.needs_somebody]
    chosen = set(needy if most is None else needy[:most])
    return [_explained(row, place) if row.has_failed and row.run in chosen else row for row in rows]


def _explained(row: StatusRow, place: ExperimentFolder) -> StatusRow:
    facts = row.cluster
    report = failure_of(place.run(row.run), facts.job, facts.cause, row.stage, row.done, row.total)
    return replace(row, failure=replace(report, node=report.node or _only(facts.nodes)))


def _only(nodes: str) -> str:
    """The node of a job that had one; nothing where it had several, or nobody knows."""
    return "" if any(sign in nodes for sign in "[,") else nodes
