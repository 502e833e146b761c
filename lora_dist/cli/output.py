"""What the commands print: results on stdout, mistakes and progress on stderr."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, RenderableType

from lora_dist.errors import Interrupted, RunsFailed, UserError

if TYPE_CHECKING:
    from lora_dist.reporting.write import Report
    from lora_dist.store.record import Record, SparseKernels
    from lora_dist.verbs.clean import Cleaned
    from lora_dist.verbs.compare import ComparisonResult, Failure
    from lora_dist.verbs.preview import Preview
    from lora_dist.verbs.status import Look


class _Console(Console):
    """A console whose reader may go away, as that of `| head` does; rich alone would end the process with 1."""

    def on_broken_pipe(self) -> None:
        """Leave it to cli/exits.py.

        Raises:
            BrokenPipeError: always.
        """
        raise BrokenPipeError


stdout = _Console()
stderr = _Console(stderr=True)


def print_lines(*lines: str) -> None:
    """Plain lines on stderr, never wrapped, so that a script can read them."""
    for line in lines:
        stderr.print(line, markup=False, highlight=False, soft_wrap=True)


def print_refusal(error: UserError) -> None:
    """One line per mistake: key, what is wrong, the fix."""
    print_lines(*(f"lora-dist: {' '.join(str(problem).split())}" for problem in error.problems))


def print_failure(failure: Failure) -> None:
    """One line for a run without a record: which, how it ended, why, and where it says more."""
    message = " ".join(failure.message.split())
    print_lines(f"lora-dist: {failure.run.label}: {failure.outcome}: {message} (log: {failure.log})")


def print_usage_error(message: str) -> None:
    """What click says of a command line; without any words that is the help itself."""
    print_lines(message if message.startswith("Usage:") else f"lora-dist: {message} (try --help)")


def finish(files: Mapping[str, Path], command: str | None) -> None:
    """Where the files are, and the next command to type."""
    stdout.print()
    for name, path in files.items():
        stdout.print(f"{name + ':':10} {path}", markup=False, highlight=False, soft_wrap=True)
    if command:
        stdout.print(f"{'next:':10} {command}", markup=False, highlight=False, soft_wrap=True)


def print_comparison(report: Report) -> None:
    """The table, and where the report is."""
    from lora_dist.reporting.table import comparison_view

    stdout.print(comparison_view(report.comparison, width=stdout.width))
    folder = report.comparison.sources[0].folder.path
    files = {path.name: path for path in report.files if path.suffix in (".html", ".md", ".csv")}
    finish(files, f"lora-dist status {folder}")


def show_result(result: ComparisonResult, look: Look | None = None) -> None:
    """The table, the files, and what failed; `look` is the last one at the jobs of a cluster.

    Raises:
        typer.Exit: runs failed; with the code of what became of all of them, where it is one.
    """
    print_comparison(result.report)
    if result.failures:
        if look is not None:
            print_to_do(look)
        else:
            for failure in result.failures:
                print_failure(failure)
        outcomes = {failure.outcome for failure in result.failures}
        alone = {"refused": UserError.exit_code, "interrupted": Interrupted.exit_code}
        raise typer.Exit(
            alone.get(outcomes.pop(), RunsFailed.exit_code) if len(outcomes) == 1 else RunsFailed.exit_code
        )


def print_record(record: Record) -> None:
    """A measured model in a few lines."""
    for split, scores in record.evaluate.items():
        if "accuracy" in scores:
            _print_classes(split, scores)
            continue
        low, high = scores["ci95"]["perplexity"]
        stdout.print(
            f"perplexity on {split}: {scores['perplexity']:.4f}  95% interval [{low:.4f}, {high:.4f}]  "
            f"({scores['scored_tokens']:,} tokens in {scores['examples']:,} rows, "
            f"{scores['bits_per_byte']:.4f} bits per byte)",
            highlight=False,
            soft_wrap=True,
        )
    if record.sparse_kernels is not None:
        print_kernels(record.sparse_kernels)


def _print_classes(split: str, scores: Mapping[str, Any]) -> None:
    """A classifier's numbers on one split."""
    told = []
    for name, words in (("accuracy", "accuracy"), ("f1_macro", "macro F1"), ("f1_weighted", "weighted F1")):
        low, high = scores["ci95"][name]
        told.append(f"{words} {scores[name]:.4f} [{low:.4f}, {high:.4f}]")
    rest = f"({scores['examples']:,} rows; train's commonest label: {scores['majority_accuracy']:.4f})"
    stdout.print(f"on {split}: {', '.join(told)}  {rest}", highlight=False, soft_wrap=True)


def print_kernels(kernels: SparseKernels) -> None:
    """What 2:4 kernels did, or in one line why they did nothing."""
    if not kernels.converted:
        stdout.print(f"sparse kernels: not used: {kernels.reason}", markup=False, highlight=False, soft_wrap=True)
        return
    dense, sparse = kernels.dense_tokens_per_second, kernels.sparse_tokens_per_second
    lines = [
        f"sparse kernels: {sparse:,.0f} tokens/s beside {dense:,.0f} dense, {sparse / dense:.2f} times "
        f"({kernels.kernel}, {kernels.converted} of {kernels.linears} linears; scoring {kernels.tokens:,} tokens, "
        f"medians of {kernels.repetitions} in turns)",
        f"sparse kernels: checked: layers within {kernels.layer_error:.1e} of float32 "
        f"({kernels.layer_tolerance:.1e} is allowed), mean NLL {kernels.nll_difference:+.1e} "
        f"({kernels.nll_tolerance:.1e} is allowed)",
    ]
    if kernels.reason:
        lines.append(f"sparse kernels: dense stay {kernels.reason}")
    for line in lines:
        stdout.print(line, markup=False, highlight=False, soft_wrap=True)


def print_runs(previews: Sequence[Preview], free_bytes: int) -> None:
    """The runs that a comparison consists of, and the disk that they need."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("run", "what", "method", "learning rate", "sequences per step", "disk", "state"):
        table.add_column(title, overflow="fold")
    for item in previews:
        table.add_row(
            item.run.id,
            item.run.label,
            item.run.method.kind,
            f"{item.run.train.learning_rate:g}" if item.run.trains else "-",
            item.batches.arithmetic if item.batches else "-",
            _mib(item.disk_bytes),
            "finished" if item.finished else "to do",
        )
    stdout.print(table)
    stdout.print("\nsequences per step: micro-batch x accumulation x ranks = global batch", highlight=False)
    sizes = [item.disk_bytes for item in previews]
    if None not in sizes:
        needed = f"all runs take up to {_mib(sum(sizes))}; {_mib(free_bytes)} are free there"
        stdout.print(f"disk: the kept checkpoints, one being written, and the model: {needed}", highlight=False)
    todo = sum(not item.finished for item in previews)
    stdout.print(f"{len(previews)} runs, {todo} to do. Nothing was started.", highlight=False)


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:,.1f} MiB"


def print_cleaned(found: Sequence[Cleaned], *, dry_run: bool) -> None:
    """What was freed, run by run, and what was kept."""
    for item in found:
        said = ("would be removed" if dry_run else "removed") if item.removed else f"kept: {item.why_kept}"
        stdout.print(f"{item.run_id}: {item.bytes / 2**20:,.1f} MiB {said}", markup=False, highlight=False)
    freed = sum(item.bytes for item in found if item.removed)
    stdout.print(f"{freed / 2**20:,.1f} MiB {'would be freed' if dry_run else 'freed'}", highlight=False)


def print_status(look: Look, *, as_json: bool) -> bool:
    """The state of each run; returns whether some have failed."""
    from lora_dist.reporting.status_table import FAILED

    if as_json:
        # A row per line, and not through rich: for 2,000 runs an indented document takes a tenth of a second more,
        # and rich half a second to look through it.
        lines = ",\n".join(json.dumps(row.document()) for row in look.rows)
        stdout.file.write(f"[\n{lines}\n]\n")
    else:
        stdout.print(status_view(look), crop=False)  # a command that is to be typed is shown whole
    return any(row.state in FAILED for row in look.rows)


def with_failures(look: Look, folder: Path, *, as_json: bool) -> Look:
    """The look, with what its failed runs tell: for people of as many as are told of, for programs of all."""
    from lora_dist.reporting.jobs_table import TOLD_OF
    from lora_dist.verbs.failures import explained

    return replace(look, rows=explained(look.rows, folder, most=None if as_json else TOLD_OF))


def print_to_do(look: Look) -> None:
    """What became of a cluster's runs that did not end well, and what to type."""
    from lora_dist.reporting.jobs_table import to_do

    print_lines(*to_do(look.rows))


def status_view(look: Look) -> RenderableType:
    """The table that fits: of folders alone, or with what a cluster's jobs are at."""
    from lora_dist.reporting.jobs_table import JobsTable
    from lora_dist.reporting.status_table import status_table

    if any(row.cluster for row in look.rows):
        return JobsTable(look.rows, look.notes)
    return status_table(look.rows)
