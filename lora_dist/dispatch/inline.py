"""The inline launcher: one run after the other on this machine, each in a child of the nursery."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lora_dist.config.experiment import Run
from lora_dist.dispatch.children import TAKEN, Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.errors import Problem, Refused, WorkerCrashed
from lora_dist.store.attempts import STOPPED, close_lost_attempt
from lora_dist.store.folders import ExperimentFolder, RunFolder
from lora_dist.store.heartbeat import read_beat
from lora_dist.store.lock import holder
from lora_dist.world import refuse_ranks

WAIT_FOR_OTHERS_S = 1.0


def check_runs(nursery: Nursery, runs: Sequence[Run], folder: ExperimentFolder, listener: Listener) -> None:
    """Check every run against its model and data, and tokenise once, in a child.

    Raises:
        Refused: with every mistake found; nothing has been written then.
        ConfigError: this process is one of several ranks.
        WorkerCrashed: the child died.
    """
    refuse_ranks()
    with tempfile.TemporaryDirectory(prefix="lora_dist-") as name:
        answer, heartbeat, log = (Path(name) / file for file in ("answer.json", "heartbeat.json", "check.log"))
        arguments = {
            "runs": [run.model_dump(mode="json") for run in runs],
            "tokens": str(folder.tokens),
            "answer": str(answer),
            "heartbeat": str(heartbeat),
        }
        try:
            ended = nursery.run("check", arguments, log=log, tick=lambda: listener.preparing(read_beat(heartbeat)))
        except KeyboardInterrupt:
            nursery.close()  # the child is dead before what it wrote is taken away
            raise
        if not answer.exists():
            raise WorkerCrashed(f"the checks before the first run ended with {ended}:\n{_tail(log)}")
        problems = json.loads(answer.read_text(encoding="utf-8"))["problems"]
    if problems:
        raise Refused(Problem(**problem) for problem in problems)


def run_all(nursery: Nursery, runs: Sequence[Run], folder: ExperimentFolder, listener: Listener) -> None:
    """Take up every run that nobody has finished; how each ended is in its folder.

    A run that another process holds is left to it, and looked at again after the others.
    """
    waiting = list(enumerate(runs, start=1))
    told: set[str] = set()
    while waiting:
        held = []
        for number, run in waiting:
            run_folder = folder.run(run.id)
            if run_folder.read_record() is not None:
                listener.skipped(run, run_folder)
            elif owner := holder(run_folder.lock):
                held.append((number, run))
                if run.id not in told:
                    listener.elsewhere(run, owner)
                    told.add(run.id)
            elif run.id in told and (ended := run_folder.read_outcome()):  # its other worker has given it up
                listener.ended(run, run_folder, ended["outcome"], ended["message"])
            elif not _run_one(nursery, run, run_folder, listener, number, len(runs)):
                held.append((number, run))
        if len(held) == len(waiting):
            time.sleep(WAIT_FOR_OTHERS_S)
        waiting = held


def _run_one(nursery: Nursery, run: Run, folder: RunFolder, listener: Listener, number: int, of: int) -> bool:
    """Have a child do one run; False when another process was quicker to take it."""
    listener.started(run, folder, number, of)
    try:
        ended = nursery.run(
            "work_on",
            {"run_folder": str(folder.path.resolve())},
            log=folder.log,
            tick=lambda: listener.beat(run, read_beat(folder.heartbeat)),
        )
    except KeyboardInterrupt:
        nursery.close()  # the child is dead before its end is written down
        close_lost_attempt(folder, "interrupted", STOPPED)
        raise
    if ended.code == TAKEN:
        return False
    outcome = folder.read_outcome()
    if outcome is None:
        close_lost_attempt(folder, "failed", f"its process ended without a word: {ended}")
        outcome = folder.read_outcome()
    listener.ended(run, folder, outcome["outcome"], outcome["message"])
    return True


def _tail(path: Path, lines: int = 30) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
