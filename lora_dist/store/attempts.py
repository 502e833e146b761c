"""Attempts that could not say their own end: a process that was killed leaves only its last heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import read_beat
from lora_dist.store.ledger import ENDED, STARTED, write_event

LOST = "lost"
STOPPED = "stopped before it could save; its newest checkpoint is kept"
RANK_LOST = "another rank was lost"
"""How the message begins of a run that failed because a rank of it was gone."""
FINISHED = "done"
"""The stage of the last beat of an attempt that came to its end."""


def write_unbegun(folder: RunFolder, outcome: str, message: str, job: Mapping[str, Any], **facts: Any) -> None:
    """Enter an attempt that ended before there was anything to be done, such as a check that failed.

    Args:
        job: the cluster's job that it ran in.
        facts: for `outcome.json`.
    """
    write_event(folder.experiment.ledger, folder.id, STARTED, **job)
    write_event(folder.experiment.ledger, folder.id, ENDED, outcome=outcome, seconds=0.0)
    folder.write_outcome(outcome, message, **facts)


def close_lost_attempt(folder: RunFolder, outcome: str | None = None, message: str = "") -> None:
    """Enter the end of an attempt that was killed into the ledger, with the time it lived by its last heartbeat.

    Args:
        outcome: written to `outcome.json` with `message` when who calls saw how it ended.
    """
    beat = read_beat(folder.heartbeat)
    if folder.read_outcome() is not None or (beat is not None and beat.stage == FINISHED):
        return
    if beat is not None:
        seconds = max(0.0, beat.time - beat.attempt_started)
        reached = {"stage": beat.stage, "done": beat.done, "total": beat.total}  # says what of its work is lost
        write_event(folder.experiment.ledger, folder.id, ENDED, outcome=outcome or LOST, seconds=seconds, **reached)
    if outcome is not None:
        folder.write_outcome(outcome, message)
    folder.heartbeat.unlink(missing_ok=True)
