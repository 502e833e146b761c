"""Datasets of the Hugging Face hub, through `datasets` and its cache; what goes wrong there in one line."""

from __future__ import annotations

import re

from lora_dist.config.experiment import content_hash
from lora_dist.data.local import SourceSplit, rows_of_dataset
from lora_dist.errors import DataError


def hub_splits(path: str, subset: str | None, revision: str | None) -> dict[str, SourceSplit]:
    """Every split of a hub dataset, downloaded into the cache that `datasets` keeps, or taken from there.

    No code of the dataset is run.

    Raises:
        DataError: it is neither in the cache nor to be had (offline, not found, gated), it has no such subset or
            revision, or it cannot be read.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        loaded = datasets.load_dataset(path, name=subset, revision=revision)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise _in_one_line(error, path, subset, revision) from error
    return {name: _split(name, dataset) for name, dataset in loaded.items()}


def _split(name: str, dataset: datasets.Dataset) -> SourceSplit:  # noqa: F821  (datasets takes 2 s to import)
    # `_fingerprint` hashes the folder in the cache (dataset, subset, version, commit) and the split: the same in every
    # process. It has no public name in datasets 5.2.
    return SourceSplit(
        name,
        read=lambda: rows_of_dataset(name, dataset),
        fingerprint=lambda: content_hash([dataset._fingerprint, dataset.num_rows]),
    )


def _in_one_line(error: Exception, path: str, subset: str | None, revision: str | None) -> DataError:
    message = " ".join(str(error).split())
    if "gated" in message:
        return DataError(
            key="data.path",
            problem=f"the hub dataset '{path}' is gated",
            fix="accept its terms on its page of the hub, and log in (hf auth login)",
        )
    if message.startswith("Revision "):
        return DataError(
            key="data.revision",
            problem=f"the hub dataset '{path}' has no revision '{revision}'",
            fix="use a branch, tag or commit of it, or null",
        )
    if re.search(r"BuilderConfig|Config name is missing|configurations in the cache|Available configs", message):
        return _wrong_subset(message, path, subset)
    if isinstance(error, ConnectionError) or "Offline" in message or "offline" in message:
        return DataError(
            key="data.path",
            problem=f"'{path}' is no file or folder here, and neither in the cache of hub datasets nor to be "
            "downloaded (the hub cannot be reached)",
            fix="correct the path, or load the dataset once where the hub can be reached, with the same HF_HOME",
        )
    if "scripts are no longer supported" in message:
        return DataError(
            key="data.path",
            problem=f"the hub dataset '{path}' needs a program of its own to be loaded, which is not run",
            fix="set data.revision to refs/convert/parquet, or use a copy of it in parquet files",
        )
    if isinstance(error, FileNotFoundError):
        return DataError(
            key="data.path",
            problem=f"'{path}' is no file or folder here, and no dataset of the hub that can be accessed",
            fix="correct the path or the hub id; log in (hf auth login) if the dataset is private",
        )
    return DataError(
        key="data.path",
        problem=f"the hub dataset '{path}' cannot be loaded ({type(error).__name__}: {message[:200]})",
        fix="try `datasets.load_dataset` with the same path and subset, or give local files",
    )


def _wrong_subset(message: str, path: str, subset: str | None) -> DataError:
    """`datasets` names the subsets there are in brackets, or before a full stop."""
    listed = re.search(r"\[([^\]]*)\]|configurations in the cache: (.*?) Please", message)
    names = [name.strip(" '\"") for name in (listed[1] or listed[2]).split(",")] if listed else []
    there = "has several subsets" if subset is None else f"has no subset '{subset}'"
    return DataError(
        key="data.subset",
        problem=f"the hub dataset '{path}' {there}",
        fix=f"use one of {', '.join(names)}" if names else "use a subset that its page on the hub lists",
    )
