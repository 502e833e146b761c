"""compare: every run of every arm, then the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.dispatch.launchers import launcher_of
from lora_dist.dispatch.queue import Queue
from lora_dist.reporting.write import Report, write_report
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.record import Record
from lora_dist.training.stop import StopFlag
from lora_dist.verbs.folders import folder_of, make_run_folders
from lora_dist.verbs.prepare import Outset


@dataclass(frozen=True)
class Failure:
    """A run that has no record, and why."""

    run: Run
    outcome: str
    message: str
    log: Path


@dataclass(frozen=True)
class ComparisonResult:
    """What `compare` leaves: the records of the finished runs, the others with their reasons, the report."""

    folder: ExperimentFolder
    records: list[Record]
    failures: list[Failure]
    report: Report


def compare(experiment: Experiment, *, listener: Listener | None = None) -> ComparisonResult:
    """Do every run that has no record yet, then write the report. The same call resumes.

    A run that fails does not stop the others; it is in `failures`.

    Raises:
        Interrupted: a signal came; what was running has saved, and the same call resumes.
        Refused: something the user can mend is wrong; nothing has been started then.
        StorageError: the experiment's folder cannot be used, or a record in it is corrupt.
    """
    listener = listener or Listener()
    outset = Outset.of(experiment)
    runs, folder = outset.runs, outset.folder
    if outset.missing:
        launcher, stop = launcher_of(experiment.launch, outset.missing), StopFlag(dies_when_asked_again=False)
        with stop.listening(), Nursery() as nursery:
            outset.make_ready(outset.missing, launcher.worlds, nursery, listener, stop)
            Queue(nursery, runs, folder, launcher.slots, listener, stop).work()
    else:
        make_run_folders(experiment, runs, folder)
        for run in runs:
            listener.skipped(run, folder.run(run.id))
    return result_in(runs, folder)


def result_of(experiment: Experiment) -> ComparisonResult:
    """What there is of a comparison now; the report is written anew."""
    return result_in(expand(experiment), folder_of(experiment))


def result_in(runs: list[Run], folder: ExperimentFolder) -> ComparisonResult:
    """What these runs have left in the folder; the report is written anew."""
    report = write_report([folder], folder.report)
    return ComparisonResult(folder, records_of(runs, folder), failures_of(runs, folder), report)


def records_of(runs: list[Run], folder: ExperimentFolder) -> list[Record]:
    """The records of the finished ones among `runs`."""
    return [record for run in runs if (record := folder.run(run.id).read_record()) is not None]


def failures_of(runs: list[Run], folder: ExperimentFolder) -> list[Failure]:
    """The others, with what is known of why."""
    failures = []
    for run in runs:
        run_folder = folder.run(run.id)
        if run_folder.read_record() is None:
            outcome = run_folder.read_outcome() or {"outcome": "failed", "message": "it never started"}
            failures.append(Failure(run, outcome["outcome"], outcome["message"], run_folder.log))
    return failures
