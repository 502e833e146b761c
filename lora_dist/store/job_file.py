"""What a cluster's job is told: one file in `jobs/`, written before the job is submitted and never changed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from lora_dist.errors import StorageError
from lora_dist.store.atomic import write_json
from lora_dist.store.folders import ExperimentFolder, RunFolder
from lora_dist.store.ledger import JobStage


@dataclass(frozen=True)
class JobFile:
    """A stage, on which runs, and how their ranks share a training."""

    stage: JobStage
    runs: tuple[str, ...]
    """Run ids; an element of an array takes the one with its number."""
    launch_config: str | None = None
    """The path of the accelerate YAML of its ranks; None for one rank, and for work that is no training."""
    signal_seconds: int = 0
    """How long before its time limit the job is told to save."""
    worlds: tuple[tuple[int, str], ...] = ()
    """For a preparation: number of ranks and strategy of each run."""

    def write(self, path: Path) -> None:
        """Write it atomically.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        write_json(path, asdict(self))

    def run(self, path: Path, element: int | None) -> RunFolder:
        """The folder of the run that an element of the array does; of the first one where it is no array.

        Args:
            path: of this file.
        """
        return experiment_of(path).run(self.runs[element or 0])


def read_job_file(path: Path) -> JobFile:
    """What a job is told.

    Raises:
        StorageError: the file says no job.
    """
    try:
        told = JobFile(**json.loads(path.read_text(encoding="utf-8")))
        if told.stage in get_args(JobStage) and isinstance(told.runs, list):
            return told
    except (OSError, ValueError, TypeError):
        pass
    raise StorageError(key=str(path), problem="says no job of a cluster", fix="give a run's folder, <run-id>/")


def experiment_of(path: Path) -> ExperimentFolder:
    """The experiment that a job's file belongs to."""
    return ExperimentFolder(path.resolve().parent.parent)
