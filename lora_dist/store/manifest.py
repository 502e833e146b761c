"""A folder's completeness manifest: names, sizes and hashes of its files, written last."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lora_dist.store.atomic import sync_tree, write_json

MANIFEST = "manifest.json"
_HASHERS = 4


def write_manifest(folder: Path, facts: dict[str, Any] | None = None) -> None:
    """Flush every file of `folder`, then write the manifest that makes it complete.

    Args:
        folder: a folder whose files will not change again.
        facts: anything a reader must know before using the folder, such as the world size.
    Raises:
        StorageError: the disk is full.
    """
    sync_tree(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    with ThreadPoolExecutor(_HASHERS) as pool:  # hashing leaves the interpreter's lock: ranks have a file each
        hashes = list(pool.map(file_hash, paths))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, hashes, strict=True)
    }
    write_json(folder / MANIFEST, {"files": files, **(facts or {})})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of `folder`, or None when it has none that can be read."""
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("files"), dict) else None


def flaw_of(folder: Path, *, contents: bool = True) -> str | None:
    """What is wrong with a folder by its manifest, in words, or None when it is complete and untouched.

    Args:
        contents: compare the bytes with their hashes too, not only the sizes.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return "it has no readable manifest"
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
        if contents and file_hash(path) != expected["sha256"]:
            return f"{name} does not have the bytes that were saved"
    return None


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
