"""compare --dry-run: which runs there are, and what is done of them already."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from lora_dist.assets import user_path
from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.pipeline.estimates import shape_of_run
from lora_dist.planning.batches import BatchPlan, plan_batches
from lora_dist.planning.disk import disk_bytes
from lora_dist.verbs.folders import folder_of


@dataclass(frozen=True)
class Preview:
    """One run that `compare` would do or skip."""

    run: Run
    batches: BatchPlan | None
    """None for a run that trains nothing."""
    finished: bool
    disk_bytes: int | None
    """What its checkpoints and its model take at most; None where the model's shape is not known here."""


def preview(experiment: Experiment) -> list[Preview]:
    """The runs of an experiment. Opens no model and no data, and writes nothing.

    Raises:
        UserError: the config or the folder is wrong.
    """
    runs = expand(experiment)
    folder = folder_of(experiment)
    return [
        Preview(
            run,
            plan_batches(run.train, world_size=1) if run.trains else None,
            folder.run(run.id).read_record() is not None,
            _disk_bytes(run),
        )
        for run in runs
    ]


def free_bytes(experiment: Experiment) -> int:
    """What is free on the disk that the experiment's folder is on, or will be."""
    folder = user_path(experiment.output_dir).absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def _disk_bytes(run: Run) -> int | None:
    shape = shape_of_run(run)
    return disk_bytes(shape, run, under_zero=False) if shape else None
