"""Local files and folders -> the splits they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_dist.assets import user_path
from lora_dist.config.experiment import content_hash
from lora_dist.data.files import READERS, read_file
from lora_dist.data.rows import Rows, joined, rows_of_table
from lora_dist.errors import DataError
from lora_dist.store.manifest import file_hash

KNOWN_SPLITS = ("train", "validation", "valid", "val", "dev", "test")

# What stands beside the data in folders made by `datasets` and by hub downloads.
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "readme.txt", "license.txt"}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class SourceSplit:
    """One split of a source, not read yet."""

    name: str
    read: Callable[[], Rows]
    fingerprint: Callable[[], str]
    """A hash that changes whenever the rows do; cheaper than reading them, and the same in every process."""


def file_split(path: Path) -> dict[str, SourceSplit]:
    """A single file is the split `train`."""
    return {"train": _split_of_files("train", [path])}


def mapped_splits(mapping: Mapping[str, str | Sequence[str]]) -> dict[str, SourceSplit]:
    """The splits of `data: {path: {train: a.jsonl, test: [b.jsonl, c.jsonl]}}`.

    Raises:
        DataError: an entry is a folder.
    """
    splits = {}
    for name, given in mapping.items():
        files = [user_path(file) for file in ([given] if isinstance(given, str) else given)]
        for file in files:
            if file.is_dir():
                raise DataError(
                    key=f"data.path.{name}", problem=f"{file} is a folder", fix="name the files in it, as a list"
                )
        splits[name] = _split_of_files(name, files)
    return splits


def folder_splits(folder: Path, subset: str | None, train_split: str) -> dict[str, SourceSplit]:
    """The splits of a folder.

    It holds files named by split (train.jsonl, my_test.csv, train-00000-of-00002.parquet), folders named by split,
    a folder `data` of either, or what `Dataset.save_to_disk` wrote; `subset` names a folder in it that does. Files
    of which none is named by a split are all train.

    Raises:
        DataError: there are no data files, or the subset is not there.
    """
    if subset is not None:
        folder = _subset_folder(folder, subset)
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return {name: _saved_split(name, folder / name) for name in names}
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return {"train": _saved_split("train", folder)}
    for base in (folder, folder / "data"):
        groups = _grouped_by_name(_data_files(base)) or _grouped_by_folder(base)
        if groups:
            if not set(groups) & {*KNOWN_SPLITS, train_split}:
                groups = {"train": sorted(file for files in groups.values() for file in files)}
            return {name: _split_of_files(name, files) for name, files in groups.items()}
    raise _no_data_in(folder)


def _subset_folder(folder: Path, subset: str) -> Path:
    there = _folders_with_data(folder)
    if subset not in there:
        raise DataError(
            key="data.subset",
            problem=f"{folder} has no subset '{subset}' (a folder of that name with data files in it)",
            fix=f"use one of {', '.join(there)}" if there else "set data.subset to null",
        )
    return folder / subset


def _no_data_in(folder: Path) -> DataError:
    subsets = _folders_with_data(folder)
    if subsets:
        return DataError(
            key="data.subset",
            problem=f"{folder} has its data files in subfolders",
            fix=f"name one of them: {', '.join(subsets)}",
        )
    return DataError(
        key="data.path",
        problem=f"the folder {folder} has no data files in it",
        fix=f"put files named by split in it, such as train.jsonl and test.jsonl ({' '.join(READERS)})",
    )


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in READERS
        and path.is_file()
        and not path.name.startswith(".")
        and path.name.lower() not in _NOT_DATA
    )


def _grouped_by_name(files: Iterable[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(_split_name(path), []).append(path)
    return groups


def _split_name(path: Path) -> str:
    """`train` for train-00000-of-00002.parquet and gsm8k_train.jsonl; a file named by no split has its own name."""
    stem = _SHARD.sub("", path.stem)
    if stem.lower() in KNOWN_SPLITS:
        return stem.lower()
    named = [part for part in re.split(r"[-_. ]+", stem.lower()) if part in KNOWN_SPLITS]
    return named[0] if len(named) == 1 else stem


def _grouped_by_folder(folder: Path) -> dict[str, list[Path]]:
    groups = {name: _data_files(folder / name) for name in KNOWN_SPLITS}
    return {name: files for name, files in groups.items() if files}


def _folders_with_data(folder: Path) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and (_data_files(path) or _grouped_by_folder(path) or (path / "dataset_dict.json").is_file())
    )


def _split_of_files(name: str, files: Sequence[Path]) -> SourceSplit:
    def read() -> Rows:
        return joined(name, [(str(file), read_file(file, name)) for file in files])

    def fingerprint() -> str:
        missing = [file for file in files if not file.is_file()]
        if missing:
            read_file(missing[0], name)  # says what is wrong with it
        return content_hash([[file.suffix.lower(), file_hash(file)] for file in files])

    return SourceSplit(name, read, fingerprint)


def _saved_split(name: str, folder: Path) -> SourceSplit:
    def read() -> Rows:
        import datasets
        import pyarrow as pa

        try:
            dataset = datasets.load_from_disk(str(folder))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(
                key="data.path",
                problem=f"{folder} is not a complete saved dataset ({type(error).__name__}: {error})",
                fix="write it again with save_to_disk",
            ) from error
        return rows_of_dataset(name, dataset)

    def fingerprint() -> str:
        return content_hash([file_hash(file) for file in sorted(folder.glob("*.arrow"))])

    return SourceSplit(name, read, fingerprint)


def rows_of_dataset(name: str, dataset: Any) -> Rows:
    """Rows of a `datasets.Dataset`, whose values stay in its memory-mapped table."""
    return rows_of_table(name, dataset.with_format("arrow")[:])
