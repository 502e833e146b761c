"""Attempts that could not say their own end: a process that was killed leaves only its last heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import read_beat
from lora_dist.store.histories import Attempt, History
from lora_dist.store.ledger import ENDED, STARTED, write_event

LOST = "lost"
STOPPED = "stopped before it could save; its newest checkpoint is kept"
RANK_LOST = "another rank was lost"
"""How the message begins of a run that failed because a rank of it was gone."""
OUT_OF_MEMORY = "out of memory"
"""How the message begins of a run that failed for want of memory."""
OUT_OF_MEMORY_CAUSE = "out_of_memory"
NODE_UNFIT_CAUSE = "node_unfit"
LESS_MEMORY = (
    "lower train.micro_batch_size, shard more (launch.config, or launch.slurm.jobs.<kind>.config: zero2 or zero3), "
    "give it more GPUs, or more host memory (launch.slurm.memory)"
)
FINISHED = "done"
"""The stage of the last beat of an attempt that came to its end."""


def write_unbegun(folder: RunFolder, outcome: str, message: str, job: Mapping[str, Any], **facts: Any) -> None:
    """Enter an attempt that ended before there was anything to be done, such as a check that failed.

    Args:
        job: the cluster's job that it ran in.
        facts: for `outcome.json`; a `cause` and the `host` that it is of stand in the ledger too.
    """
    write_event(folder.experiment.ledger, folder.id, STARTED, **job)
    told = {name: facts[name] for name in ("cause", "host") if name in facts}
    write_event(folder.experiment.ledger, folder.id, ENDED, **{**told, "outcome": outcome, "seconds": 0.0})
    folder.write_outcome(outcome, message, **facts)


def close_lost_attempt(folder: RunFolder, outcome: str | None = None, message: str = "", **facts: Any) -> None:
    """Enter the end of an attempt that was killed into the ledger, with the time it lived by its last heartbeat.

    Args:
        outcome: written to `outcome.json` with `message` and `facts` when who calls saw how it ended.
    """
    beat = read_beat(folder.heartbeat)
    if folder.read_outcome() is not None or (beat is not None and beat.stage == FINISHED):
        return
    if beat is not None:
        seconds = max(0.0, beat.time - beat.attempt_started)
        reached = {"stage": beat.stage, "done": beat.done, "total": beat.total}  # says what of its work is lost
        write_event(folder.experiment.ledger, folder.id, ENDED, outcome=outcome or LOST, seconds=seconds, **reached)
    if outcome is not None:
        folder.write_outcome(outcome, message, **facts)
    folder.heartbeat.unlink(missing_ok=True)


def idle_restarts(history: History, job: str, saved_step: int) -> list[Attempt]:
    """The newest attempts in a row, oldest first, that this job began and somebody killed, none of them any use.

    An attempt that said its own end, or gave the job back, begins a new row; so does one that went on from a later
    step, or that came to the evaluation or a later block of the pruning than any before it.

    Args:
        saved_step: the newest checkpoint that there is to go on from.
    """
    found: list[Attempt] = []
    furthest = (0, 0)
    for attempt in history.attempts:
        if attempt.job != job or attempt.outcome not in ("", LOST) or attempt.requeued:
            found = []
            continue
        has_advanced = bool(found) and attempt.first_step > found[-1].first_step
        if has_advanced or _reached(attempt) > furthest:
            found = []
        furthest = max(furthest, _reached(attempt))
        found.append(attempt)
    return [] if found and saved_step > found[-1].first_step else found


def _reached(attempt: Attempt) -> tuple[int, int]:
    """How far an attempt came in what the next one goes on with; steps of a training apart, which checkpoints tell."""
    stage = attempt.end.get("stage")
    return int(stage == "evaluate"), int(attempt.end.get("done") or 0) if stage == "prune" else 0
