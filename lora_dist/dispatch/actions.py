"""What a child of the nursery can be asked to do. Arguments and answers are JSON; the stack is imported already."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lora_dist.config.experiment import Run
from lora_dist.config.sections import Strategy
from lora_dist.dispatch.children import TAKEN
from lora_dist.errors import Interrupted, UserError
from lora_dist.pipeline.fetching import fetch_sources
from lora_dist.pipeline.preflight import Preflight
from lora_dist.pipeline.worker import work
from lora_dist.store.atomic import write_json
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Heartbeat
from lora_dist.store.lock import Held
from lora_dist.team import Team
from lora_dist.training.stop import StopFlag
from lora_dist.world import World

log = logging.getLogger(__name__)


def work_on(run_folder: str, threads: int | None = None) -> None:
    """Do what is missing of one run, with so many threads; its outcome is in its folder."""
    if threads is not None:
        torch.set_num_threads(threads)
    folder = RunFolder(Path(run_folder))
    work(folder.path, Team(), Heartbeat(folder.heartbeat))


def launch(command: list[str]) -> None:
    """Become a launcher. It dies with the nursery, as every child does."""
    os.execv(command[0], command)  # noqa: S606 - built by dispatch.launch_config


def check(
    runs: list[dict[str, Any]], worlds: list[tuple[int, Strategy]], tokens: str, answer: str, heartbeat: str
) -> None:
    """Check all runs and write the problems, if any, to the file `answer`; otherwise write the tokens."""
    preflight = Preflight(Path(tokens), Heartbeat(Path(heartbeat)))
    try:
        preflight.check(
            [Run.model_validate(run) for run in runs], [World(0, size, 0, strategy) for size, strategy in worlds]
        )
        preflight.save()
    except UserError as error:
        write_json(Path(answer), {"problems": [vars(problem) for problem in error.problems]})
        raise
    write_json(Path(answer), {"problems": []})


def fetch(runs: list[dict[str, Any]], answer: str, heartbeat: str) -> None:
    """Fetch what the runs need from elsewhere; write the problems, if any, and what there is to the file `answer`."""
    beat, stop = Heartbeat(Path(heartbeat)), StopFlag(dies_when_asked_again=False)

    def progress(stage: str, done: int, total: int, text: str) -> None:
        stop.check()
        beat(stage, done, total, text)

    try:
        with stop.listening():
            sources = fetch_sources([Run.model_validate(run) for run in runs], progress)
    except UserError as error:
        write_json(Path(answer), {"problems": [vars(problem) for problem in error.problems]})
        raise
    write_json(Path(answer), {"problems": [], "sources": [asdict(source) for source in sources]})


ACTIONS: dict[str, Callable[..., None]] = {"work_on": work_on, "launch": launch, "check": check, "fetch": fetch}


def perform(action: str, arguments: dict[str, Any]) -> int:
    """Perform an action in this process and return its exit code: 0, 2 for the user's mistakes, 1 for the rest."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        ACTIONS[action](**arguments)
    except UserError as error:
        log.error("%s", error)
        return error.exit_code
    except Interrupted as error:
        log.info("%s", error)
        return error.exit_code
    except Held as error:
        log.info("%s", error)
        return TAKEN
    except Exception:
        log.exception("%s failed", action)
        return 1
    return 0
