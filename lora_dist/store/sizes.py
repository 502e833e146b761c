"""What a folder takes on its disk."""

from __future__ import annotations

from pathlib import Path


def bytes_in(folder: Path) -> int:
    """The bytes of all files in a folder and below it; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
