"""The preparation of a cluster's runs as a job of its own: all are checked, and their data is tokenised once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lora_dist.errors import UserError
from lora_dist.pipeline.preflight import Preflight
from lora_dist.pipeline.worker import read_run
from lora_dist.store.attempts import write_unbegun
from lora_dist.store.folders import ExperimentFolder
from lora_dist.world import SlurmJob, World


def prepare_runs(
    folder: ExperimentFolder,
    run_ids: Sequence[str],
    worlds: Sequence[World],
    job: SlurmJob | None,
    progress: Callable[[str, int, int, str], None],
) -> None:
    """Check these runs, each in the world that it will have, and write the tokens that are not there yet.

    Raises:
        UserError: something is wrong. Then none of them may start, and each says so as its outcome.
    """
    folders = [folder.run(run_id) for run_id in run_ids]
    preflight = Preflight(folder.tokens, progress)
    try:
        preflight.check([read_run(run) for run in folders], list(worlds))
        preflight.save()
    except UserError as error:
        problems = [vars(problem) for problem in error.problems]
        for run in folders:
            write_unbegun(run, "refused", str(error), job.facts() if job else {}, problems=problems)
        raise
