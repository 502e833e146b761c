"""A worker: everything one run needs, from its folder alone, stage after stage, to its record.

The same code runs under every launcher. A stage whose output is complete is skipped, so a worker that is started
again does only what is missing.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_dist.config.experiment import Run
from lora_dist.config.loading import read_yaml
from lora_dist.data.tokens import TokenisedData, TokenSet
from lora_dist.errors import LoraDistError, UserError
from lora_dist.models.device import release_memory
from lora_dist.models.loading import context_length, empty_model, load_tokenizer, quiet_transformers
from lora_dist.pipeline.measure import measure_run
from lora_dist.pipeline.preflight import find_or_tokenise
from lora_dist.store.attempts import FINISHED, STOPPED, close_lost_attempt
from lora_dist.store.folders import RunFolder
from lora_dist.store.ledger import ENDED, STARTED, write_event
from lora_dist.store.lock import exclusive
from lora_dist.store.record import Record
from lora_dist.training.trainer import train_run
from lora_dist.world import World

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int, str], None]


def work(path: Path, world: World, progress: Progress) -> Record:
    """Do what is missing of the run in `path`, under its lock, and write how that ended to `outcome.json`.

    Raises:
        Held: another worker has the run.
        UserError: something the user can mend (outcome `refused`).
        LoraDistError: the run failed (outcome `failed`).
    """
    folder = RunFolder(path)
    quiet_transformers()
    with exclusive(folder.lock):
        return _attempt(folder, world, progress)


def _attempt(folder: RunFolder, world: World, progress: Progress) -> Record:
    started = time.perf_counter()

    def ended(outcome: str, message: str = "", **facts: Any) -> None:
        folder.write_outcome(outcome, message, **facts)
        seconds = time.perf_counter() - started
        write_event(folder.experiment.ledger, folder.id, ENDED, outcome=outcome, seconds=seconds)

    close_lost_attempt(folder)
    folder.heartbeat.unlink(missing_ok=True)
    folder.outcome.unlink(missing_ok=True)
    write_event(folder.experiment.ledger, folder.id, STARTED)
    try:
        record = _stages(folder, world, progress)
    except UserError as error:
        ended("refused", str(error), problems=[vars(problem) for problem in error.problems])
        raise
    except KeyboardInterrupt:
        ended("interrupted", STOPPED)
        raise
    except Exception as error:
        log.exception("the run failed")
        is_ours = isinstance(error, LoraDistError)
        ended("failed", str(error) if is_ours else traceback.format_exception_only(error)[-1].strip())
        raise
    ended("completed")
    progress(FINISHED, 1, 1, "")
    return record


def _stages(folder: RunFolder, world: World, progress: Progress) -> Record:
    """prepare -> train -> evaluate."""
    started = time.perf_counter()
    run = read_run(folder)
    progress("prepare", 0, 0, "")
    tokenizer = load_tokenizer(run.model)
    tokens = _tokens(run, folder, tokenizer, progress)
    if run.trains and not (folder.training.exists() and folder.model.is_dir()):
        train_run(run, folder, tokens, tokenizer, world, lambda *beat: progress("train", *beat))
        release_memory()
    elapsed = time.perf_counter() - started
    return measure_run(run, folder, tokens, tokenizer, world, progress, seconds_before=elapsed)


def read_run(folder: RunFolder) -> Run:
    """The run as its folder describes it.

    Raises:
        ConfigError: `config.yaml` is missing or damaged.
    """
    return Run.model_validate(read_yaml(folder.config))


def _tokens(run: Run, folder: RunFolder, tokenizer: object, progress: Progress) -> TokenSet:
    model = empty_model(run.model)
    found = find_or_tokenise(run.data, tokenizer, context_length(model), folder.experiment.tokens, progress)
    return found.save(folder.experiment.tokens) if isinstance(found, TokenisedData) else found
