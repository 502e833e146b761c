"""What `lora-dist adapter` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lora_dist.cli.output import finish, stdout
from lora_dist.reporting.words import duration, many, one_line, readable, speed

if TYPE_CHECKING:
    from lora_dist.reporting.adapters import AdapterRow
    from lora_dist.verbs.adapter_generate import AdapterGenerations, Continued

_NARROWEST = 38
"""Characters of a column of continuations; where not two fit, they stand one under another."""


def print_adapters(rows: Sequence[AdapterRow], folder: str, *, as_json: bool) -> None:
    """One row each, what is damaged, and the command that compares the best of one base."""
    if as_json:
        lines = ",\n".join(json.dumps(row.document()) for row in rows)
        stdout.file.write(f"[\n{lines}\n]\n" if rows else "[]\n")
        return
    if not rows:
        stdout.print(f"No adapter below {folder}.", markup=False, highlight=False, soft_wrap=True)
        return
    from lora_dist.reporting.adapters_table import adapters_table, next_command

    stdout.print(adapters_table(rows, stdout.width))
    for row in rows:
        if row.problem:
            line = f"damaged: {one_line(row.path)}: {one_line(row.problem, 400)}"
            stdout.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    stdout.print(f"{many(len(rows), 'adapter')} below {folder}", markup=False, highlight=False, soft_wrap=True)
    finish({}, next_command(rows, folder))


def print_generations(found: AdapterGenerations, *, as_json: bool) -> None:
    """The continuations of each prompt, side by side where the terminal is wide enough."""
    if as_json:
        stdout.file.write(json.dumps(found.document(), indent=2) + "\n")
        return
    for prompt in found.prompts:
        stdout.print(_side_by_side(prompt, stdout.width))
    facts = found.generation
    told = f"{many(facts.new_tokens, 'token')} in {duration(facts.seconds)}, {speed(facts.tokens_per_second)}"
    rows = f"{many(facts.prompts, 'row')} (prompts x adapters) on one {found.dtype} base"
    for line in (f"{rows}: {told}", *found.notes):
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def _side_by_side(prompt: Continued, width: int) -> RenderableType:
    """The prompt over tables of as many columns as fit."""
    columns = max(1, width // _NARROWEST)
    parts: list[RenderableType] = [Rule(style="dim"), Text(readable(prompt.prompt), style="bold"), Text()]
    wrote = prompt.continuations
    for start in range(0, len(wrote), columns):
        some = wrote[start : start + columns]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
        for one in some:
            table.add_column(Text(one_line(one.adapter)), ratio=1, overflow="fold", vertical="top")
        for _ in range(columns - len(some) if start else 0):
            table.add_column("", ratio=1)  # the last line's columns are as wide as those above
        table.add_row(*(Text(readable(one.text).strip("\n")) for one in some))
        parts.append(table)
    return Group(*parts)
