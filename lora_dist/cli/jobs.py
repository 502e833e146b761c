"""The verbs of a cluster's jobs: compare --launcher slurm, retry, cancel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_dist.cli.output import finish, stdout, with_failures

if TYPE_CHECKING:
    from lora_dist.config.experiment import Experiment
    from lora_dist.verbs.compare import ComparisonResult
    from lora_dist.verbs.status import Look

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="An experiment's folder, <output_dir>/<name>.")]


@dataclass(frozen=True)
class Waited:
    """What became of a comparison whose jobs have ended."""

    result: ComparisonResult
    look: Look
    """The last one at its jobs."""


def submit_comparison(experiment: Experiment, *, dry_run: bool, wait: bool) -> Waited | None:
    """Submit the jobs of a comparison, or show them; what became of it, for one who waits."""
    from lora_dist.cli.job_output import print_job_previews, print_submission
    from lora_dist.cli.progress import ProgressView
    from lora_dist.verbs.submit import preview_jobs, submit

    if dry_run:
        print_job_previews(preview_jobs(experiment))
        return None
    with ProgressView() as view:
        found = submit(experiment, listener=view)
    print_submission(found)
    if not wait:
        return None
    from lora_dist.cli.watch import follow
    from lora_dist.verbs.compare import result_of
    from lora_dist.verbs.status import looks

    look = follow(looks(found.folder.path))
    return Waited(result_of(experiment), with_failures(look, found.folder.path, as_json=False))


def prepare_comparison(experiment: Experiment) -> None:
    """Make everything that comes before the runs; a line for each folder that is to be worked on."""
    from lora_dist.cli.progress import ProgressView
    from lora_dist.verbs.prepare import prepare

    with ProgressView() as view:
        folders = prepare(experiment, listener=view)
    for folder in folders:
        stdout.print(str(folder), markup=False, highlight=False, soft_wrap=True)


def retry(
    folder: Folder,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Ids of runs; all that are not finished, if none is given."),
    ] = None,
) -> None:
    """Submit again what has failed on a cluster."""
    from lora_dist.cli.job_output import print_submission
    from lora_dist.cli.progress import ProgressView
    from lora_dist.verbs.retry import retry as do_retry

    with ProgressView() as view:
        found = do_retry(folder, runs or (), listener=view)
    print_submission(found)


def cancel(folder: Folder) -> None:
    """End the jobs of an experiment on a cluster; what runs saves first."""
    from lora_dist.verbs.cancel import cancel as do_cancel

    ended = do_cancel(folder)
    for job in ended:
        stdout.print(f"{job.job}: {job.run or job.stage} cancelled", markup=False, highlight=False)
    finish({}, f"lora-dist retry {folder}")
