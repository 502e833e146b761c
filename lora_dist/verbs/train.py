"""train: one run with all its stages, in this process (one of several ranks, under a launcher), to its record."""

from __future__ import annotations

from collections.abc import Callable

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.config.problems import nearest
from lora_dist.errors import ConfigError
from lora_dist.store.folders import ExperimentFolder, RunFolder
from lora_dist.store.heartbeat import Heartbeat
from lora_dist.store.record import Record
from lora_dist.team import Team
from lora_dist.verbs.folders import check_pruned, claimed, folder_of, make_run_folders
from lora_dist.world import World, current_world

Progress = Callable[[str, int, int, str], None]


def runs_of(experiment: Experiment, arm: str | None) -> list[Run]:
    """The runs of one arm, or of all.

    Raises:
        ConfigError: there is no arm of that name.
    """
    runs = expand(experiment)
    if arm is None:
        return runs
    if arm not in experiment.arms:
        fix = nearest(arm, experiment.arms) if experiment.arms else "leave it out: this experiment has no arms"
        raise ConfigError(key="--arm", problem=f"no arm is called '{arm}'", fix=fix)
    return [run for run in runs if run.arm == arm]


def only_run(experiment: Experiment, arm: str | None = None) -> Run:
    """The one run that is meant.

    Raises:
        ConfigError: there are several, or no arm of that name.
    """
    runs = runs_of(experiment, arm)
    if len(runs) > 1:
        raise too_many(runs, f"{len(runs)} runs, and train does one")
    return runs[0]


def too_many(runs: list[Run], what: str) -> ConfigError:
    """The error of a verb that does one thing, for an experiment that has several."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    fix = f"choose one with --arm: {', '.join(arms)}" if len(arms) > 1 else "use compare, or override its sweep"
    return ConfigError(key="arms", problem=f"this experiment has {what}", fix=fix)


def train(experiment: Experiment, *, arm: str | None = None, progress: Progress | None = None) -> Record | None:
    """Run every stage of a single-run experiment (or of one arm) and return its record.

    A finished run is not repeated; a stopped one goes on from its newest checkpoint. Under `accelerate launch` or
    torchrun every rank calls this; rank 0 prepares, reports the progress and writes, and only it surely has the record.

    Args:
        progress: called with stage, done, total and a text as the run goes on.
    Raises:
        Interrupted: a signal came; what there was to save is saved.
        UserError: something the user can mend.
        Held: another process has the run.
    """
    run = only_run(experiment, arm)
    world = current_world()
    folder = folder_of(experiment)
    check_pruned([run], folder)
    if world.size == 1 and (finished := folder.run(run.id).read_record()) is not None:
        return finished
    from lora_dist.pipeline.worker import work  # imports the stack, which takes 10 s

    team = Team.join(world)
    finished = team.first_does(folder.run(run.id).read_record)
    if finished is not None:
        team.leave()
        return finished
    show = progress or silent
    team.first_does(lambda: prepare(experiment, run, folder, world, show))
    run_folder = folder.run(run.id)
    return work(run_folder.path, team, progress_of(run_folder, show) if world.is_first else silent)


def prepare(
    experiment: Experiment,
    run: Run,
    folder: ExperimentFolder,
    world: World,
    show: Progress,
    *,
    checked: Run | None = None,
    blocks: range | None = None,
) -> None:
    """Check the run (or what of it is to be done, `checked`, of these `blocks`), and make its folder and its tokens.

    Raises:
        Refused: something the user can mend is wrong.
    """
    from lora_dist.pipeline.preflight import Preflight

    preflight = Preflight(folder.tokens, show)
    with claimed(folder):
        preflight.check([checked or run], [world])
        if blocks is not None:
            preflight.check_blocks(run, blocks)
        make_run_folders(experiment, [run], folder)
        preflight.save()


def progress_of(folder: RunFolder, show: Progress) -> Progress:
    """Progress for a person and for `status`."""
    heartbeat = Heartbeat(folder.heartbeat)

    def tell(stage: str, done: int, total: int, text: str) -> None:
        heartbeat(stage, done, total, text)
        show(stage, done, total, text)

    return tell


def silent(stage: str, done: int, total: int, text: str) -> None:
    """Show nothing."""
