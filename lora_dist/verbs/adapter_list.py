"""adapter list: the trained adapters below a folder."""

from __future__ import annotations

from pathlib import Path

from lora_dist.assets import user_path
from lora_dist.errors import StorageError
from lora_dist.reporting.adapters import AdapterRow, adapters_below


def adapter_list(folder: Path | str, *, checkpoints: bool = False) -> list[AdapterRow]:
    """A row for each adapter below a folder, by task, data and perplexity. Reads headers and JSON files alone.

    Args:
        checkpoints: look into folders of that name, too.
    Raises:
        StorageError: there is no such folder.
    """
    path = user_path(str(folder))
    if "\0" in str(path) or not path.is_dir():
        problem = "is a file, not a folder" if "\0" not in str(path) and path.is_file() else "is no folder here"
        raise StorageError(key=str(folder), problem=problem, fix="give a folder that holds runs or adapters")
    return adapters_below(path, checkpoints=checkpoints)
