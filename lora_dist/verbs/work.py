"""work: what a launcher starts on every rank; a person can type the same to repeat what it did."""

from __future__ import annotations

import logging
from pathlib import Path

from lora_dist.errors import StorageError
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Heartbeat
from lora_dist.store.record import Record
from lora_dist.team import Team
from lora_dist.verbs.train import silent
from lora_dist.world import current_world


def work_on(path: Path) -> Record | None:
    """Do what is missing of the run in the folder `path`, on this rank; only rank 0 surely gets the record.

    Raises:
        Interrupted: a signal came; what there was to save is saved.
        UserError: something the user can mend.
        Held: another process has the run.
    """
    folder, world = RunFolder(path), current_world()
    if not folder.config.is_file():
        raise StorageError(key=str(path), problem="is not a run's folder (no config.yaml in it)", fix="give <run-id>/")
    logging.basicConfig(
        level=logging.INFO if world.is_first else logging.WARNING,
        format=f"%(asctime)s rank {world.rank} %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    team = Team.join(world)
    from lora_dist.pipeline.worker import work  # imports the stack

    return work(path, team, Heartbeat(folder.heartbeat) if world.is_first else silent)
