"""clean: the checkpoints of finished runs are of no use any more."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lora_dist.store.atomic import storage_errors
from lora_dist.store.folders import RunFolder, open_experiment_folder
from lora_dist.store.lock import Held, exclusive
from lora_dist.store.sizes import bytes_in


@dataclass(frozen=True)
class Cleaned:
    """What became of one run's checkpoints."""

    run_id: str
    bytes: int
    removed: bool
    why_kept: str = ""


def clean(folder: Path | str, *, dry_run: bool = False) -> list[Cleaned]:
    """Remove the checkpoints of every finished run in an experiment's folder (with `dry_run`, only say which).

    Raises:
        StorageError: it is not an experiment's folder, a record is corrupt, or something cannot be removed.
    """
    found = (_clean(run, dry_run=dry_run) for run in open_experiment_folder(Path(folder)).runs())
    return [cleaned for cleaned in found if cleaned is not None]


def _clean(run: RunFolder, *, dry_run: bool) -> Cleaned | None:
    if not run.checkpoints.is_dir():
        return None
    size = bytes_in(run.checkpoints)
    if not size:
        return None
    if run.read_record() is None:
        return Cleaned(run.id, size, False, "not finished: it goes on from them")
    try:
        with exclusive(run.lock):
            if not dry_run:
                with storage_errors(run.checkpoints):
                    shutil.rmtree(run.checkpoints)
    except Held as held:
        return Cleaned(run.id, size, False, str(held.owner or "another process has it"))
    return Cleaned(run.id, size, True)
