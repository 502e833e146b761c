"""Before the first run starts: all of them are checked, and the data is tokenised, in a child of the nursery."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lora_dist.config.experiment import Run
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.errors import Problem, Refused, WorkerCrashed
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
    refuse_ranks()
    with tempfile.TemporaryDirectory(prefix="lora_dist-") as name:
        answer, heartbeat, log = (Path(name) / file for file in ("answer.json", "heartbeat.json", "check.log"))
        arguments = {
            "runs": [run.model_dump(mode="json") for run in runs],
            "worlds": [[world.size, world.strategy] for world in worlds],
            "tokens": str(folder.tokens),
            "answer": str(answer),
            "heartbeat": str(heartbeat),
        }

        def tick() -> None:
            stop.check()
            listener.preparing(read_beat(heartbeat))

        try:
            ended = nursery.run("check", arguments, log=log, tick=tick)
        except BaseException:
            nursery.close()  # the child is dead before what it wrote is taken away
            raise
        if not answer.exists():
            raise WorkerCrashed(f"the checks before the first run ended with {ended}:\n{_tail(log)}")
        problems = json.loads(answer.read_text(encoding="utf-8"))["problems"]
    if problems:
        raise Refused(Problem(**problem) for problem in problems)


def _tail(path: Path, lines: int = 30) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
