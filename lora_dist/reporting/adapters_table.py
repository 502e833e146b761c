"""The adapters below a folder as a table, and the command that compares some of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from lora_dist.config.sections import LORA_KINDS
from lora_dist.reporting.adapters import FINISHED, AdapterRow
from lora_dist.reporting.words import NOTHING, one_line, size, with_interval

_WIDE = 110
"""Characters of a terminal from which nothing has to be squeezed."""
_MOST_TARGETS = 7  # q k v o gate up down
_COMPARED = 4
"""Adapters that the next command names."""


def adapters_table(rows: Sequence[AdapterRow], width: int) -> Table:
    """Two lines for each adapter, so that 80 columns are enough; long names fold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    widest = {"method": 18, "data": 13} if width < _WIDE else {"method": 40, "data": 40}
    table.add_column("adapter\nbase", overflow="fold")
    table.add_column("method\ntargets, seed", overflow="fold", max_width=widest["method"])
    table.add_column("task\ndata", overflow="fold", max_width=widest["data"])
    scores = _other_scores(rows)
    table.add_column("test ppl\n95% interval", justify="right")
    for name in scores:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("size\nrun", justify="right")
    for row in rows:
        cells = [_two(row.to_type, row.base_name), _method(row), _data(row), _score(row, "perplexity")]
        table.add_row(*cells, *(_score(row, name) for name in scores), _state(row))
    return table


def next_command(rows: Sequence[AdapterRow], folder: str) -> str | None:
    """What compares the first adapters of the base that has most of them; None where no base is told."""
    usable = [row for row in rows if not row.problem and row.base and row.kind in LORA_KINDS]
    if not usable:
        return None
    bases = [row.base for row in usable]
    base = max(dict.fromkeys(bases), key=bases.count)
    paths = [str(Path(folder) / row.to_type) for row in usable if row.base == base][:_COMPARED]
    words = ["lora-dist", "adapter", "generate", str(base), "--adapters", *paths]
    return f"{shlex.join(words)} --prompt TEXT"


def _other_scores(rows: Sequence[AdapterRow]) -> list[str]:
    """Metrics beside perplexity that some row has on test."""
    return sorted({name for row in rows for name in row.scores.get("test", {})} - {"perplexity"})


def _two(first: str | None, second: str | None, style: str = "bold") -> Text:
    text = Text(one_line(first or NOTHING), style=style)
    text.append(f"\n{one_line(second or NOTHING)}", style="dim not bold")
    return text


def _method(row: AdapterRow) -> Text:
    words = [row.kind or "", "dora" if row.dora else "", "rslora" if row.rslora else ""]
    words += [f"{row.virtual_tokens}" if row.virtual_tokens else ""]
    words += [f"r{row.rank}" if row.rank else "", f"alpha {row.alpha:g}" if row.alpha is not None else ""]
    words += ["keeps zeros" if row.keeps_zeros else ""]
    seed = "" if row.seed is None else f"; seed {row.seed}"
    return _two(" ".join(word for word in words if word), f"{_targets(row.targets)}{seed}", style="")


def _targets(targets: Sequence[str] | str | None) -> str:
    """q,k,v for q_proj, k_proj and v_proj."""
    if targets is None or isinstance(targets, str):
        return targets or NOTHING
    short = [name.removesuffix("_proj") for name in targets]
    more = f",... ({len(short)})" if len(short) > _MOST_TARGETS else ""
    return ",".join(short[:_MOST_TARGETS]) + more


def _data(row: AdapterRow) -> Text:
    return _two(row.task, row.data and row.data.removeprefix("builtin:"), style="")


def _score(row: AdapterRow, name: str) -> Text:
    found = row.scores.get("test", {}).get(name)
    if not found or not isinstance(found["value"], int | float):
        return Text(NOTHING)
    value, interval = with_interval(found["value"], *(found["ci95"] or (None, None)), digits=3)
    return Text(value).append(f"\n{interval}", style="dim")


def _state(row: AdapterRow) -> Text:
    if row.problem:
        return Text(size(row.bytes)).append("\ndamaged", style="red")
    return Text(size(row.bytes)).append(f"\n{row.state}", style="green" if row.state == FINISHED else "dim")
