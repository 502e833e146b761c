"""work: what a launcher starts on every rank; a person can type the same to repeat what it did."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from lora_dist.dispatch.requeue import Requeue
from lora_dist.errors import ConfigError, Interrupted, NodeUnfit, StorageError
from lora_dist.store.atomic import make_folder
from lora_dist.store.attempts import NODE_UNFIT_CAUSE, write_unbegun
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Heartbeat
from lora_dist.store.job_file import JobFile, experiment_of, read_job_file
from lora_dist.store.ledger import JobStage
from lora_dist.store.record import Record
from lora_dist.team import Team
from lora_dist.training.stop import StopFlag
from lora_dist.verbs.closing import close
from lora_dist.verbs.train import silent
from lora_dist.world import SlurmJob, World, current_job, current_world, this_node


def work_on(path: Path) -> Record | None:
    """Do what is missing of a run, or what a job is told to; on this rank.

    Args:
        path: a run's folder, or a file of an experiment's `jobs/` that says stage and runs (an element of an array
            takes the one with its number).
    Returns:
        The record of a run; only rank 0 surely gets it.
    Raises:
        Interrupted: a signal came; what there was to save is saved.
        UserError: something the user can mend.
        Held: another process has the run.
        NodeUnfit: this machine has not what the job was given.
    """
    if path.is_file():
        return _do_job(path)
    _refuse_other(path)
    return _work(RunFolder(path), StopFlag())


def _refuse_other(path: Path) -> None:
    if not RunFolder(path).config.is_file():
        raise StorageError(key=str(path), problem="is not a run's folder (no config.yaml in it)", fix="give <run-id>/")


def _work(folder: RunFolder, early: StopFlag, stage: JobStage = "run") -> Record | None:
    """A stage of a run on this rank; `early` has heard what came while the stack loaded."""
    world = current_world()
    logging.basicConfig(
        level=logging.INFO if world.is_first else logging.WARNING,
        format=f"%(asctime)s rank {world.rank} %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    team = _meet(world, folder)
    from lora_dist.pipeline import worker  # imports the stack

    early.check_together(team)
    progress = Heartbeat(folder.heartbeat) if world.is_first else silent
    if stage == "prune":
        worker.prune_only(folder.path, team, progress)
        return None
    return worker.work(folder.path, team, progress, only_training=stage == "train")


def _meet(world: World, folder: RunFolder) -> Team:
    """Join the other ranks; in a job of a cluster its machines are looked at first."""
    job = current_job()
    if job is None:
        return Team.join(world)
    from lora_dist.pipeline.node_checks import check_node, check_team  # imports torch

    try:
        check_node(world, job)
        team = Team.join(world)
        check_team(team)
    except (NodeUnfit, ConfigError) as error:  # whoever meets it says so: the others may not live to
        facts = {"rank": world.rank, "host": this_node()}
        cause = {"cause": NODE_UNFIT_CAUSE} if isinstance(error, NodeUnfit) else {}
        write_unbegun(folder, "failed", str(error), job.facts(), **facts, **cause)
        raise
    return team


def _do_job(path: Path) -> Record | None:
    """What a cluster's job is told: its stage, its runs, how its ranks share a training."""
    told, job = read_job_file(path), current_job()
    if told.stage == "report":
        close(experiment_of(path).path)
        return None
    if told.launch_config:
        from lora_dist.dispatch.launch_environment import launch_environment

        os.environ.update(launch_environment(Path(told.launch_config)))
    folder = told.run(path, job.element if job else None)
    _refuse_other(folder.path)
    if job is not None and told.stage != "prepare":
        _print_to_log(folder)
    # Listening all along: a signal must not end this process while it loads, or while it gives the job back.
    stop = StopFlag(dies_when_asked_again=False)
    with stop.listening(), stop.named():
        try:
            return _prepare(path, told, job, stop) if told.stage == "prepare" else _work(folder, stop, told.stage)
        except Interrupted as error:
            if job is None:
                raise
            if not current_world().is_first:
                return None  # srun would kill the first rank for another's exit code
            Requeue(job, told.signal_seconds).after_stop(folder, error.signal)
            raise


def _prepare(path: Path, told: JobFile, job: SlurmJob | None, stop: StopFlag) -> None:
    from lora_dist.pipeline.preparation import prepare_runs  # imports the stack

    worlds = [World(0, size, 0, strategy) for size, strategy in told.worlds]
    prepare_runs(experiment_of(path), told.runs, worlds, job, lambda *_: stop.check())


def give_back(path: Path) -> None:
    """What a job's script does when its srun has failed: the job goes back to the queue if its ranks lost each other.

    Args:
        path: the job's file, as `work_on` takes it.
    Raises:
        StorageError: it is none.
    """
    told, job = read_job_file(path), current_job()
    if job is not None:
        Requeue(job, told.signal_seconds).after_loss(told.run(path, job.element))


def _print_to_log(folder: RunFolder) -> None:
    """From here on this rank prints into the run's folder: worker.log the first rank, rank-N.log the others."""
    rank = current_world().rank
    make_folder(folder.log.parent)
    path = folder.log if rank == 0 else folder.log.with_name(f"rank-{rank}.log")
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
