"""compare --dry-run: which runs there are, and what is done of them already."""

from __future__ import annotations

from dataclasses import dataclass

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.planning.batches import BatchPlan, plan_batches
from lora_dist.verbs.folders import folder_of


@dataclass(frozen=True)
class Preview:
    """One run that `compare` would do or skip."""

    run: Run
    batches: BatchPlan | None
    """None for a run that trains nothing."""
    finished: bool


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
        )
        for run in runs
    ]
