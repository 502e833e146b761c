"""The verbs of a cluster's jobs: compare --launcher slurm, retry, cancel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_dist.cli.output import finish, print_status, stdout, with_failures
from lora_dist.errors import RunsFailed, UserError

if TYPE_CHECKING:
    from lora_dist.config.experiment import Experiment
    from lora_dist.verbs.status import Look

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="An experiment's folder, <output_dir>/<name>.")]


def submit_jobs(
    experiment: Experiment, *, dry_run: bool, wait: bool, only: list[str] | None = None, prune_only: bool = False
) -> Look | None:
    """Submit the jobs of an experiment, or show them; for one who waits, where everything is at the end."""
    from lora_dist.cli.job_output import print_preview, print_submission
    from lora_dist.cli.progress import ProgressView
    from lora_dist.verbs.submit import preview_jobs, submit

    if dry_run:
        print_preview(preview_jobs(experiment, only=only, prune_only=prune_only))
        return None
    with ProgressView() as view:
        found = submit(experiment, only=only, prune_only=prune_only, listener=view)
    print_submission(found)
    if not wait:
        return None
    from lora_dist.cli.watch import follow
    from lora_dist.verbs.status import looks

    return with_failures(follow(looks(found.folder.path)), found.folder.path, as_json=False)


def submit_one(experiment: Experiment, run_id: str, *, wait: bool, prune_only: bool = False) -> None:
    """Submit the jobs of one run; for one who waits, show how it ended.

    Raises:
        typer.Exit: with 3, if it failed.
    """
    look = submit_jobs(experiment, dry_run=False, wait=wait, only=[run_id], prune_only=prune_only)
    if look is not None and print_status(look, as_json=False):
        raise typer.Exit(RunsFailed.exit_code)


def is_for_cluster(launcher: str | None) -> bool:
    """Whether one run is to be a job. Only the option says so: an experiment's launcher is that of `compare`, and the
    same file is used inside of jobs.

    Raises:
        UserError: the option is neither inline nor slurm.
    """
    if launcher not in (None, "inline", "slurm"):
        raise UserError(
            key="--launcher",
            problem=f"'{launcher}' is not for one run",
            fix="leave it out (this process), or use slurm; several ranks: accelerate launch -m lora_dist ...",
        )
    return launcher == "slurm"


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
