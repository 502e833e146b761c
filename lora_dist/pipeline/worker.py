"""A worker: everything one run needs, from its folder alone, stage after stage, to its record.

The same code runs under every launcher, on every rank. A stage whose output is complete is skipped, so a worker that
is started again does only what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from lora_dist.config.experiment import Run
from lora_dist.config.loading import read_yaml
from lora_dist.data.tokens import TokenSet
from lora_dist.errors import StorageError
from lora_dist.models.device import memory_of, release_memory
from lora_dist.models.loading import load_tokenizer, quiet_transformers
from lora_dist.pipeline.alone import measure_alone
from lora_dist.pipeline.attempt import Attempt
from lora_dist.pipeline.fallback import as_decided, decide_method
from lora_dist.pipeline.measure import measure_run
from lora_dist.pipeline.node_checks import check_disk
from lora_dist.pipeline.preflight import tokens_on_disk
from lora_dist.pipeline.prune_figures import linears_pruned, prune_part
from lora_dist.pipeline.pruned import prune_stage
from lora_dist.pipeline.task_models import models_for
from lora_dist.pipeline.validation import validation_loss
from lora_dist.store.attempts import FINISHED
from lora_dist.store.folders import RunFolder
from lora_dist.store.lock import exclusive
from lora_dist.store.record import PrunePart, Record
from lora_dist.team import Team
from lora_dist.training.stop import StopFlag
from lora_dist.training.trainer import train_run
from lora_dist.world import current_job

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int, str], None]
T = TypeVar("T")


def work(path: Path, team: Team, progress: Progress, *, only_training: bool = False) -> Record | None:
    """Do what is missing of the run in `path`, under its lock, and write how that ended to `outcome.json`.

    Every rank of the team calls this, and leaves the team with it. Signals (see `training.stop`) end it at the next
    step, saved. Returns the record, or None on a rank that has left before the evaluation.

    Args:
        only_training: leave the evaluation to another worker.
    Raises:
        Held: another worker has the run.
        Interrupted: a signal came to one of the ranks (outcome `interrupted`); the same call resumes.
        UserError: something the user can mend (outcome `refused`).
        LoraDistError: the run failed (outcome `failed`).
    """
    return _attempt(path, team, lambda folder, stop: _stages(folder, team, stop, progress, only_training), progress)


def prune_only(
    path: Path, team: Team, progress: Progress, chosen: range | None = None
) -> tuple[PrunePart | None, tuple[dict[str, Any], ...]]:
    """The pruning stage of the run in `path` alone; as `work` otherwise.

    Args:
        chosen: these blocks only. Others may be at work on the rest, so the run is not locked then.
    Returns:
        The figures, or None while blocks are missing; and what is told of each linear.
    """

    def stages(folder: RunFolder, stop: StopFlag) -> tuple[PrunePart | None, tuple[dict[str, Any], ...]]:
        together = _together(team, stop, progress)
        run = read_run(folder)
        tokenizer = load_tokenizer(run.model)
        tokens = team.first_does(lambda: tokens_of(run, folder, tokenizer, progress))
        if not prune_stage(run, folder, tokens, tokenizer, team, together, chosen):
            return None, ()
        return team.first_does(lambda: (prune_part(run, folder), tuple(linears_pruned(folder))))

    return _attempt(path, team, stages, progress, is_alone=chosen is None)


def _attempt(
    path: Path,
    team: Team,
    stages: Callable[[RunFolder, StopFlag], T],
    progress: Progress,
    *,
    is_alone: bool = True,
) -> T:
    """One attempt at some stages of a run, under its lock if it `is_alone` with it."""
    folder, stop = RunFolder(path), StopFlag()
    quiet_transformers()
    with stop.listening(), stop.named(), ExitStack() as lock:
        _see_each_other(folder, team)
        if not is_alone:
            done = stages(folder, stop)
            stop.end()
            team.leave()
            return done
        team.first_does(lambda: lock.enter_context(exclusive(folder.lock)))
        with Attempt(folder, team, stop):
            done = stages(folder, stop)
        progress(FINISHED, 1, 1, "")
        return done


def _together(team: Team, stop: StopFlag, progress: Progress) -> Progress:
    """Progress of what all ranks do in step: they stop together."""

    def tell(*beat: object) -> None:
        stop.check_together(team)
        progress(*beat)

    return tell


def _see_each_other(folder: RunFolder, team: Team) -> None:
    """Every rank has to see the run's folder: on several machines it has to be on a disk that they share."""
    blind = [rank for rank, sees in enumerate(team.gather(folder.config.exists())) if not sees]
    if blind:
        raise StorageError(
            key=str(folder.path),
            problem=f"cannot be seen by rank {', '.join(map(str, blind))}",
            fix="put output_dir on a disk that all machines share",
        )


def _stages(
    folder: RunFolder, team: Team, stop: StopFlag, progress: Progress, only_training: bool = False
) -> Record | None:
    """prepare -> [prune] -> [train] -> evaluate."""
    started = time.perf_counter()
    run = read_run(folder)

    def alone(*beat: object) -> None:
        stop.check()
        progress(*beat)

    together = _together(team, stop, progress)
    together("prepare", 0, 0, "")
    gpu_bytes = memory_of(team.world) if team.world.size == 1 else None
    team.first_does(lambda: decide_method(run, folder, gpu_bytes))
    run = as_decided(run, folder)
    if current_job() is not None:
        check_disk(run, folder, team)
    tokenizer = load_tokenizer(run.model)
    tokens = team.first_does(lambda: tokens_of(run, folder, tokenizer, alone))
    if run.prune:
        prune_stage(run, folder, tokens, tokenizer, team, together)
    if run.trains and not team.first_does(lambda: folder.training.exists() and folder.model.is_dir()):
        loss = validation_loss(run, tokens, tokenizer, team)
        train_run(run, folder, tokens, tokenizer, team, stop, lambda *beat: progress("train", *beat), loss)
        release_memory()
    if only_training:
        return None
    elapsed = time.perf_counter() - started
    if team.world.strategy == "zero3":  # its engine has changed how this process opens models
        team.leave()
        return (
            measure_alone(folder, stop, seconds_before=elapsed, devices=team.world.size)
            if team.world.is_first
            else None
        )
    return measure_run(run, folder, tokens, tokenizer, team, together, seconds_before=elapsed)


def read_run(folder: RunFolder) -> Run:
    """The run as its folder describes it.

    Raises:
        ConfigError: `config.yaml` is missing or damaged.
    """
    return Run.model_validate(read_yaml(folder.config))


def tokens_of(run: Run, folder: RunFolder, tokenizer: object, progress: Progress) -> TokenSet:
    """The run's tokens, made now if they are not on the disk.

    Raises:
        UserError: the source or the model has changed since the run was checked.
    """
    models = models_for(run.data.task)
    context = models.context(models.empty(run.model, None))
    return tokens_on_disk(run.data, tokenizer, context, folder.experiment.tokens, progress)
