"""prune: the pruning stage of one run, in this process (one of several ranks, under a launcher), to `pruned/`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.errors import ConfigError
from lora_dist.store.record import PrunePart
from lora_dist.team import Team
from lora_dist.verbs.folders import check_pruned, folder_of
from lora_dist.verbs.train import Progress, prepare, progress_of, runs_of, silent, too_many
from lora_dist.world import current_world


@dataclass(frozen=True)
class Pruned:
    """A pruned model, or the blocks of it that are there."""

    run: Run
    folder: Path
    """An ordinary model folder, once it is complete."""
    figures: PrunePart | None = None
    """None while blocks are missing."""
    linears: tuple[dict[str, Any], ...] = ()
    """For each linear: block, name, weights, zeros, mean_squared_error, damping, seconds."""

    @property
    def is_complete(self) -> bool:
        """Whether every block is there."""
        return self.figures is not None


def run_to_prune(experiment: Experiment, arm: str | None = None) -> Run:
    """The run whose model is pruned: the first of those that prune alike.

    Raises:
        ConfigError: nothing is to be pruned, or there are several prunings.
    """
    runs = [run for run in runs_of(experiment, arm) if run.prune is not None]
    if not runs:
        raise ConfigError(key="prune", problem="is not given", fix="add it, for example prune.sparsity=0.5")
    keys = {run.located().pruning_key for run in runs}
    if len(keys) > 1:
        raise too_many(runs, f"{len(keys)} prunings, and prune does one")
    return runs[0]


def untrained(run: Run) -> Run:
    """What is checked of a run that is to be pruned and no more."""
    return run.model_copy(update={"method": run.method.model_copy(update={"kind": "base"})})


def prune(
    experiment: Experiment, *, arm: str | None = None, blocks: str | None = None, progress: Progress | None = None
) -> Pruned | None:
    """Prune the model of an experiment (or of one arm), or go on where another attempt has left off.

    Under torchrun, accelerate or srun every rank calls this; only rank 0 surely has the result.

    Args:
        blocks: with `prune.mode: dense_inputs`, the blocks A:B (from A to before B) that this process prunes; others
            may prune the rest at the same time, and who finds that all are there puts the model together.
        progress: called with stage, done, total and a text.
    Raises:
        Interrupted: a signal came; finished blocks are kept.
        UserError: something the user can mend.
        Held: another process has the run.
    """
    run = run_to_prune(experiment, arm)
    chosen = _blocks(run, blocks) if blocks is not None else None
    world, folder = current_world(), folder_of(experiment)
    check_pruned(expand(experiment), folder)
    from lora_dist.pipeline.worker import prune_only  # imports the stack, which takes 10 s

    team, show = Team.join(world), progress or silent
    team.first_does(lambda: prepare(experiment, run, folder, world, show, checked=untrained(run), blocks=chosen))
    run_folder = folder.run(run.id)
    found = prune_only(run_folder.path, team, progress_of(run_folder, show) if world.is_first else silent, chosen)
    if found is None:
        return None
    figures, linears = found
    return Pruned(run, run_folder.pruned, figures, linears)


def _blocks(run: Run, text: str) -> range:
    if run.prune is None or (run.prune.uses_data and run.prune.mode == "exact"):
        raise ConfigError(
            key="--blocks",
            problem="in mode exact a block depends on those before it",
            fix="set prune.mode=dense_inputs, or leave it out",
        )
    found = re.fullmatch(r"([0-9]+):([0-9]+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ConfigError(
            key="--blocks", problem=f"'{text}' is no range", fix="give one such as 0:8, for blocks 0 to 7"
        )
    return range(int(found[1]), int(found[2]))
