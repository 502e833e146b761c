"""report: table, plots and page from the records of one or several experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_dist.reporting.write import Report, write_report
from lora_dist.store.folders import open_experiment_folder


def report(folders: Sequence[Path | str], *, into: Path | str | None = None) -> Report:
    """Write report.md, report.html, results.csv and plots.

    Args:
        folders: experiment folders, as `compare` printed them.
        into: where the report goes; the first folder's `report/` by default.
    Raises:
        StorageError: a folder is not an experiment's. (A run with a corrupt record is listed as not finished.)
    """
    opened = [open_experiment_folder(Path(folder)) for folder in folders]
    return write_report(opened, Path(into) if into is not None else opened[0].report)
