"""status: where every run of an experiment is."""

from __future__ import annotations

from pathlib import Path

from lora_dist.reporting.status_table import StatusRow, status_rows
from lora_dist.store.folders import open_experiment_folder


def status(folder: Path | str) -> list[StatusRow]:
    """The state of every run in an experiment's folder.

    Raises:
        StorageError: it is not an experiment's folder.
    """
    return status_rows(open_experiment_folder(Path(folder)))
