"""compare --prepare: all that comes before the runs, for jobs that then do each in one process (`work RUN_DIR`)."""

from __future__ import annotations

from pathlib import Path

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment
from lora_dist.dispatch.checks import check_runs
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.training.stop import StopFlag
from lora_dist.verbs.folders import check_pruned, claimed, folder_of, make_run_folders, unfinished
from lora_dist.world import World


def prepare(experiment: Experiment, *, listener: Listener | None = None) -> list[Path]:
    """Check every run that has no record yet, tokenise, and make the folders of all; returns those without a record.

    Raises:
        Interrupted: a signal came.
        Refused: something the user can mend is wrong; nothing is left behind then.
        StorageError: the experiment's folder cannot be used, or a record in it is corrupt.
    """
    listener = listener or Listener()
    runs = expand(experiment)
    folder = folder_of(experiment)
    check_pruned(runs, folder)
    missing = unfinished(runs, folder)
    stop = StopFlag(dies_when_asked_again=False)
    with stop.listening(), Nursery() as nursery, claimed(folder):
        if missing:
            check_runs(nursery, missing, [World()] * len(missing), folder, listener, stop)
        make_run_folders(experiment, runs, folder)
    return [folder.run(run.id).path for run in missing]
