"""Append-only files of JSON lines: the ledger, and a run's metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_dist.store.atomic import storage_errors


def append_line(path: Path, document: dict[str, Any], *, durable: bool = True) -> None:
    """Append one JSON line in a single write, so that several processes may append to one file.

    A torn last line (power cut) is closed off first. `durable` waits for the disk.
    """
    line = json.dumps(document, ensure_ascii=False) + "\n"
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = "\n" + line
            os.write(handle, line.encode(errors="backslashreplace"))
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The documents in a file of JSON lines; none when there is no file. A torn line is passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.split("\n"):
        try:
            document = json.loads(line)
        except json.JSONDecodeError:  # a write that a power cut tore: its event never took place
            continue
        if isinstance(document, dict):
            yield document
