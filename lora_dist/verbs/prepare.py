"""What comes before the runs of a comparison: each is checked, the data is tokenised, the folders are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.dispatch.checks import check_runs
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.store.folders import ExperimentFolder
from lora_dist.training.stop import StopFlag
from lora_dist.verbs.folders import check_pruned, claimed, folder_of, make_run_folders, unfinished
from lora_dist.world import World


@dataclass(frozen=True)
class Outset:
    """An experiment before anything of it is started: its runs, and what is on the disk."""

    experiment: Experiment
    runs: list[Run]
    missing: list[Run]
    """Those without a record."""
    folder: ExperimentFolder
    """Checked, and perhaps not yet made."""

    @classmethod
    def of(cls, experiment: Experiment) -> Outset:
        """Look at an experiment's folder.

        Raises:
            StorageError: it cannot be used, or a record in it is corrupt.
        """
        runs, folder = expand(experiment), folder_of(experiment)
        check_pruned(runs, folder)
        return cls(experiment, runs, unfinished(runs, folder), folder)

    def make_ready(
        self, wanted: Sequence[Run], worlds: Sequence[World], nursery: Nursery, listener: Listener, stop: StopFlag
    ) -> None:
        """Check the runs that are wanted, tokenise for them, and make the folders of all.

        Args:
            worlds: the ranks that each of the wanted ones will have.
        Raises:
            Refused: with every mistake found; nothing is left behind then.
            Interrupted: a signal came.
        """
        with claimed(self.folder):
            if wanted:
                check_runs(nursery, wanted, worlds, self.folder, listener, stop)
            make_run_folders(self.experiment, self.runs, self.folder)

    def make_folders(self) -> None:
        """Make the folders of all runs, for a job that then checks them.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        with claimed(self.folder):
            make_run_folders(self.experiment, self.runs, self.folder)


def prepare(experiment: Experiment, *, listener: Listener | None = None) -> list[Path]:
    """compare --prepare: make ready every run that has no record, for jobs that then do each in one process; returns
    their folders.

    Raises:
        Interrupted: a signal came.
        Refused: something the user can mend is wrong; nothing is left behind then.
        StorageError: the experiment's folder cannot be used, or a record in it is corrupt.
    """
    outset, stop = Outset.of(experiment), StopFlag(dies_when_asked_again=False)
    with stop.listening(), Nursery() as nursery:
        outset.make_ready(outset.missing, [World()] * len(outset.missing), nursery, listener or Listener(), stop)
    return [outset.folder.run(run.id).path for run in outset.missing]
