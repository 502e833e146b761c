"""Where the rows come from: built-in data, local files and folders, the hub; and which split plays which part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_dist.assets import user_path
from lora_dist.config.sections import DataSection
from lora_dist.corpora import registry
from lora_dist.data.files import READERS
from lora_dist.data.hub import fetch_hub_dataset, hub_splits
from lora_dist.data.local import SourceSplit, file_split, folder_splits, mapped_splits
from lora_dist.data.rows import Rows, refuse, rows_of_objects
from lora_dist.errors import DataError, Problem
from lora_dist.hub import Report
from lora_dist.store.fetched import Fetched

BUILTIN = "builtin:"
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_TEST_NAMES = ("test",)


def load_splits(section: DataSection) -> dict[str, Rows]:
    """The rows of train, and of validation and test where the source has them.

    Raises:
        DataError: the source is not there or cannot be read, or lacks a split that the section names.
    """
    return {part: split.read() for part, split in find_splits(section).items()}


def source_fingerprint(section: DataSection) -> dict[str, str]:
    """A hash of the content of each split that `load_splits` would read; equal in every process.

    Raises:
        DataError: as `load_splits`.
    """
    return {part: split.fingerprint() for part, split in find_splits(section).items()}


def find_splits(section: DataSection) -> dict[str, SourceSplit]:
    """train, and validation and test where the source has them, not read yet.

    A split that the section does not name is found by its usual name, unless it already plays another part.

    Raises:
        DataError: the source is not there, or lacks a split that the section names.
    """
    there = _all_splits(section)
    named = {"train": section.train_split, "validation": section.validation_split, "test": section.eval_split}
    keys = {"train": "data.train_split", "validation": "data.validation_split", "test": "data.eval_split"}
    fix = f"use one of {', '.join(there)}"
    refuse(
        Problem(keys[part], f"the data has no split '{name}'", fix)
        for part, name in named.items()
        if name is not None and name not in there
    )
    refuse(
        Problem(keys[part], f"'{name}' is trained on", "use another split, or null to hold examples out of it")
        for part, name in named.items()
        if part != "train" and name == section.train_split
    )
    taken = {name for name in named.values() if name is not None}
    for part, usual in (("test", _TEST_NAMES), ("validation", _VALIDATION_NAMES)):
        if named[part] is None:
            named[part] = next((name for name in usual if name in there and name not in taken), None)
    return {part: there[name] for part, name in named.items() if name is not None}


def _all_splits(section: DataSection) -> dict[str, SourceSplit]:
    """Every split of the source, under the source's own names."""
    path = section.path
    if isinstance(path, dict):
        _refuse_hub_settings(section, "files", subset=True)
        return mapped_splits(path)
    if path.startswith(BUILTIN):
        _refuse_hub_settings(section, "built-in data", subset=True)
        return _builtin_splits(path)
    local = user_path(path)
    if local.is_dir():
        _refuse_hub_settings(section, "a local folder", subset=False)
        return folder_splits(local, section.subset, section.train_split)
    if local.exists():
        _refuse_hub_settings(section, "a local file", subset=True)
        return file_split(local)
    if not is_on_hub(path):
        raise DataError(
            key="data.path",
            problem=f"there is no file or folder {path}",
            fix=f"correct the path (relative paths start at {Path.cwd()})",
        )
    return hub_splits(path, section.subset, section.revision)


def is_on_hub(path: str | dict[str, Any]) -> bool:
    """Whether a `data.path` names a dataset of the hub, and not files, built-in data or a file that is not there."""
    if isinstance(path, dict) or path.startswith((BUILTIN, ".", "/", "~")) or path.count("/") > 1:
        return False
    local = user_path(path)
    return not local.exists() and local.suffix.lower() not in READERS


def fetch_data(section: DataSection, report: Report) -> Fetched:
    """Make sure that this data can be read without a network.

    Raises:
        DataError: as `find_splits`.
    """
    path = section.path
    if is_on_hub(path):
        return fetch_hub_dataset(path, section.subset, section.revision, report)
    if isinstance(path, dict):
        return Fetched("the files that are named", None, "local")
    if path.startswith(BUILTIN):
        return Fetched("made as it is read", None, "already there")
    return Fetched(str(user_path(path).resolve()), None, "local")


def _refuse_hub_settings(section: DataSection, source: str, *, subset: bool) -> None:
    """A setting that would be passed over in silence is a mistake."""
    given = {"data.revision": section.revision} | ({"data.subset": section.subset} if subset else {})
    refuse(
        Problem(key, f"{source} has no {key.removeprefix('data.')}", "set it to null")
        for key, value in given.items()
        if value is not None
    )


def _builtin_splits(path: str) -> dict[str, SourceSplit]:
    loaded = registry.load(path)
    fingerprint = registry.fingerprint(path)
    return {
        name: SourceSplit(
            name,
            read=lambda name=name, rows=rows: rows_of_objects(name, rows),
            fingerprint=lambda name=name: f"{fingerprint}:{name}",
        )
        for name, rows in loaded.items()
    }
