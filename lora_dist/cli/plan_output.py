"""What `plan` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from lora_dist.cli.output import stdout

if TYPE_CHECKING:
    from lora_dist.verbs.plan import RunPlan

GIB = 2**30


def print_plans(plans: Sequence[RunPlan], *, as_json: bool) -> None:
    """A row of bytes per run, why, and the command that launches it."""
    if as_json:
        stdout.print(
            json.dumps({"runs": [plan.document() for plan in plans]}, indent=2),
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        return
    table = Table(box=None, pad_edge=False)
    for title in ("run", "launch config", "sequences per step", "GiB per GPU", "fits"):
        table.add_column(title, overflow="fold", justify="right" if title == "GiB per GPU" else "left")
    for plan in plans:
        fits = {None: "-", True: "yes", False: "no"}[plan.fits]
        table.add_row(plan.run.label, plan.config, plan.batches.arithmetic, _gib(plan.bytes.total), fits)
    stdout.print(table)
    for plan in plans:
        terms = ", ".join(
            f"{name} {_gib(size)}" for name, size in plan.bytes.document().items() if size and name != "total"
        )
        for text in (
            "",
            f"{plan.run.label}: {plan.config}: {plan.why}",
            f"  {terms}",
            *plan.notes,
            f"  {plan.command}",
        ):
            stdout.print(text, markup=False, highlight=False, soft_wrap=True)
    stdout.print("\nAn estimate in GiB; sequences per step: micro-batch x accumulation x ranks.", highlight=False)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
