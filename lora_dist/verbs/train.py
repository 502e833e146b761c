"""train: one run with all its stages, in this process, to its record."""

from __future__ import annotations

from collections.abc import Callable

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.config.problems import nearest
from lora_dist.errors import ConfigError
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Heartbeat
from lora_dist.store.record import Record
from lora_dist.verbs.folders import claimed, folder_of, make_run_folders
from lora_dist.world import current_world

Progress = Callable[[str, int, int, str], None]


def only_run(experiment: Experiment, arm: str | None = None) -> Run:
    """The one run that is meant.

    Raises:
        ConfigError: there are several, or no arm of that name.
    """
    runs = expand(experiment)
    if arm is not None:
        if arm not in experiment.arms:
            fix = nearest(arm, experiment.arms) if experiment.arms else "leave it out: this experiment has no arms"
            raise ConfigError(key="--arm", problem=f"no arm is called '{arm}'", fix=fix)
        runs = [run for run in runs if run.arm == arm]
    if len(runs) > 1:
        arms = list(dict.fromkeys(run.arm for run in runs))
        fix = f"choose one with --arm: {', '.join(arms)}" if len(arms) > 1 else "use compare, or override its sweep"
        raise ConfigError(key="arms", problem=f"this experiment has {len(runs)} runs, and train does one", fix=fix)
    return runs[0]


def train(experiment: Experiment, *, arm: str | None = None, progress: Progress | None = None) -> Record:
    """Run every stage of a single-run experiment (or of one arm) and return its record.

    A finished run is not repeated; a stopped one goes on from its newest checkpoint.

    Args:
        progress: called with stage, done, total and a text as the run goes on.
    Raises:
        UserError: something the user can mend.
        Held: another process has the run.
    """
    run = only_run(experiment, arm)
    folder = folder_of(experiment)
    finished = folder.run(run.id).read_record()
    if finished is not None:
        return finished
    world = current_world()
    from lora_dist.pipeline.preflight import Preflight  # imports the stack, which takes 10 s
    from lora_dist.pipeline.worker import work

    show = progress or silent
    preflight = Preflight(folder.tokens, world, show)
    with claimed(folder):
        preflight.check([run])
        make_run_folders(experiment, [run], folder)
        preflight.save()
    run_folder = folder.run(run.id)
    return work(run_folder.path, world, _both(run_folder, show))


def _both(folder: RunFolder, show: Progress) -> Progress:
    """Progress for a person and for `status`."""
    heartbeat = Heartbeat(folder.heartbeat)

    def tell(stage: str, done: int, total: int, text: str) -> None:
        heartbeat(stage, done, total, text)
        show(stage, done, total, text)

    return tell


def silent(stage: str, done: int, total: int, text: str) -> None:
    """Show nothing."""
