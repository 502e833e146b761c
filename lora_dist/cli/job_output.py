"""What is printed of a cluster's jobs: those that were submitted, would be, or were ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from lora_dist.cli.output import finish, stdout

if TYPE_CHECKING:
    from lora_dist.dispatch.job_graph import JobPlan
    from lora_dist.verbs.submit import Preview, SubmitResult


def print_submission(found: SubmitResult) -> None:
    """The jobs, what needed none, and how to see how they go."""
    if found.jobs:
        ids = {place: job.job for place, job in enumerate(found.jobs)}
        stdout.print(_table([job.plan for job in found.jobs], ids))
    said = [f"{len(found.jobs)} jobs submitted"]
    if found.live:
        said.append(f"{len(found.live)} runs have a job already")
    if found.finished:
        said.append(f"{found.finished} runs are finished")
    stdout.print(", ".join(said), highlight=False)
    _print_notes(found.notes)
    finish({"scripts": found.folder.jobs}, f"lora-dist status {found.folder.path} --watch")


def print_preview(preview: Preview) -> None:
    """The graph, what each job asks for, and its script."""
    stdout.print(_table([item.plan for item in preview.jobs], {}))
    _print_notes(preview.notes)
    for number, item in enumerate(preview.jobs, start=1):
        stdout.print(f"\njob {number}:", highlight=False)
        stdout.print(item.script, markup=False, highlight=False, soft_wrap=True)
    stdout.print(f"{len(preview.jobs)} jobs. Nothing was submitted.", highlight=False)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        stdout.print(note, markup=False, highlight=False, soft_wrap=True)


def _table(plans: Sequence[JobPlan], ids: dict[int, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("job", "does", "runs", "machines x ranks", "GPUs", "launch config", "limit", "waits for"):
        table.add_column(title, overflow="fold")
    if has_excluded := any(plan.ask.exclude for plan in plans):
        table.add_column("not on", overflow="fold")
    for place, plan in enumerate(plans):
        ranks = plan.ranks
        table.add_row(
            ids.get(place, str(place + 1)),
            plan.name,
            _names(plan),
            f"{ranks.nodes} x {ranks.per_node}",
            str(ranks.nodes * ranks.gpus_per_node) if ranks.gpus_per_node else "-",
            ranks.config.path.stem if ranks.config else "-",
            plan.ask.time or "-",
            ", ".join(ids.get(other, str(other + 1)) for other in plan.after) or "-",
            *([plan.ask.exclude or "-"] if has_excluded else []),
        )
    return table


def _names(plan: JobPlan) -> str:
    if not plan.runs:
        return "-"
    first = plan.runs[0].label
    return first if len(plan.runs) == 1 else f"{first} and {len(plan.runs) - 1} more"
