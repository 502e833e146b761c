"""What `lora-dist prune` prints: a line for each kind of linear, and where the model is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lora_dist.cli.output import finish, stdout

if TYPE_CHECKING:
    from lora_dist.verbs.prune import Pruned


def print_pruned(pruned: Pruned, words: str) -> None:
    """The table, the files and the next command; `words` is what was typed after `prune`."""
    figures = pruned.figures
    if figures is None:
        stdout.print(
            "these blocks are pruned; others are missing, and whoever prunes the last one puts the model together"
        )
        finish({"blocks": pruned.folder.parent.parent / "pruned"}, f"lora-dist prune {words} --blocks A:B")
        return
    stdout.print(_table(pruned.linears))
    approximate = " (approximate: by the inputs of dense blocks)" if figures.is_approximate else ""
    stdout.print(
        f"\n{figures.kind}{approximate}: {figures.sparsity:.2%} of {figures.weights:,} weights in {figures.linears} "
        f"linears are zero; {figures.seconds:.1f} s on {figures.world_size} rank(s), "
        f"peak {figures.peak_memory_bytes / 2**20:,.0f} MiB {figures.peak_memory_kind}",
        highlight=False,
        soft_wrap=True,
    )
    files = {"model": pruned.folder, "masks": pruned.folder / "masks", "report": pruned.folder / "pruning.json"}
    finish(files, f"lora-dist evaluate --model {pruned.folder} --data DATA data.task={pruned.run.data.task}")


def _table(linears: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title="by linear, over all blocks", title_justify="left")
    table.add_column("linear")
    for title in ("blocks", "weights", "zeros", "mean squared error", "damping", "seconds"):
        table.add_column(title, justify="right")
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for linear in linears:
        by_name[linear["name"]].append(linear)
    for name, members in by_name.items():
        weights, zeros = (sum(member[key] for member in members) for key in ("weights", "zeros"))
        errors = [member["mean_squared_error"] for member in members if member["mean_squared_error"] is not None]
        dampings = sorted({member["damping"] for member in members if member["damping"] is not None})
        table.add_row(
            name,
            str(len(members)),
            f"{weights:,}",
            f"{zeros / weights:.2%}",
            f"{fmean(errors):.3g}" if errors else "-",
            " to ".join(f"{value:g}" for value in dict.fromkeys((dampings[0], dampings[-1]))) if dampings else "-",
            f"{sum(member['seconds'] for member in members):.2f}",
        )
    return table
