"""Before the first run starts: sources are fetched, all runs checked, data tokenised, in a child of the nursery."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_dist.config.experiment import Run
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.errors import Problem, Refused, WorkerCrashed
from lora_dist.store.fetched import Fetched, Source
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.heartbeat import read_beat
from lora_dist.training.stop import StopFlag
from lora_dist.world import World, refuse_ranks


def check_runs(
    nursery: Nursery,
    runs: Sequence[Run],
    worlds: Sequence[World],
    folder: ExperimentFolder,
    listener: Listener,
    stop: StopFlag,
) -> None:
    """Check every run against its model, its data and the ranks that it will have, and tokenise once.

    Raises:
        Refused: with every mistake found; nothing has been written then.
        ConfigError: this process is one of several ranks.
        Interrupted: this process was asked to stop.
        WorkerCrashed: the child died.
    """
    arguments = {
        "runs": [run.model_dump(mode="json") for run in runs],
        "worlds": [[world.size, world.strategy] for world in worlds],
        "tokens": str(folder.tokens),
    }
    _ask(nursery, "check", arguments, listener, stop)


def fetch_for(nursery: Nursery, runs: Sequence[Run], listener: Listener, stop: StopFlag) -> list[Source]:
    """Bring the models and the data of these runs onto this disk.

    Raises:
        Refused: with everything that cannot be had.
        ConfigError: this process is one of several ranks.
        Interrupted: this process was asked to stop; files that are whole are kept.
        WorkerCrashed: the child died.
    """
    answer = _ask(nursery, "fetch", {"runs": [run.model_dump(mode="json") for run in runs]}, listener, stop)
    return [Source(**told | {"fetched": Fetched(**told["fetched"])}) for told in answer["sources"]]


def _ask(
    nursery: Nursery, action: str, arguments: dict[str, Any], listener: Listener, stop: StopFlag
) -> dict[str, Any]:
    """Have a child of the nursery do something; what it answers."""
    refuse_ranks()
    with tempfile.TemporaryDirectory(prefix="lora_dist-") as name:
        answer, heartbeat, log = (Path(name) / file for file in ("answer.json", "heartbeat.json", "child.log"))

        def tick() -> None:
            stop.check()
            listener.preparing(read_beat(heartbeat))

        places = {"answer": str(answer), "heartbeat": str(heartbeat)}
        try:
            ended = nursery.run(action, arguments | places, log=log, tick=tick)
        except BaseException:
            nursery.close()  # the child is dead before what it wrote is taken away
            raise
        if not answer.exists():
            raise WorkerCrashed(f"'{action}' before the first run ended with {ended}:\n{_tail(log)}")
        told = json.loads(answer.read_text(encoding="utf-8"))
    if told["problems"]:
        raise Refused(Problem(**problem) for problem in told["problems"])
    return told


def _tail(path: Path, lines: int = 30) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
