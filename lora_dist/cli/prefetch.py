"""prefetch: what an experiment needs from elsewhere, fetched; the table of what that is, and where."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from lora_dist.cli.arguments import Words, experiment_of
from lora_dist.cli.output import finish, stdout

if TYPE_CHECKING:
    from lora_dist.store.fetched import Source
    from lora_dist.verbs.prefetch import PrefetchResult


def prefetch(words: Words = None) -> None:
    """On a login node: fetch model and data, tokenise once, so that compute nodes run offline."""
    experiment = experiment_of(words)
    from lora_dist.cli.progress import ProgressView
    from lora_dist.verbs.prefetch import prefetch as do_prefetch

    with ProgressView() as view:
        result = do_prefetch(experiment, listener=view)
    print_prefetched(result)
    finish({"runs": result.folder.path}, _next_command(words or []))


def _next_command(words: list[str]) -> str:
    command = shlex.join(["lora-dist", "compare", *words])
    return f"{command} --launcher slurm launch.slurm.offline=true" if shutil.which("sbatch") else command


def print_prefetched(result: PrefetchResult) -> None:
    """The sources, and whether there was anything to fetch."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("what", "name", "size", "state", "where"):
        table.add_column(title, overflow="fold", justify="right" if title == "size" else "left")
    for source in result.sources:
        told = source.fetched
        table.add_row(source.kind, source.name, _size(told.bytes), told.state, told.where)
    stdout.print(table, markup=False, highlight=False)
    stdout.print(f"\n{_in_words(result.sources)}", markup=False, highlight=False)
    stdout.print(f"{len(result.waiting)} runs are ready, {result.finished} are finished.", highlight=False)


def _in_words(sources: list[Source]) -> str:
    new = [source for source in sources if source.fetched.state in ("fetched", "made here")]
    if not new:
        return "Everything was there already."
    return (
        f"{len(new)} of {len(sources)} are new on this disk, {_size(sum(source.fetched.bytes or 0 for source in new))}."
    )


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count / 1e3:,.1f} kB"
