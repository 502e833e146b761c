"""Datasets of the Hugging Face hub, through `datasets` and its cache; what goes wrong there in one line."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_dist.config.experiment import content_hash
from lora_dist.data.local import SourceSplit, rows_of_dataset
from lora_dist.errors import DataError
from lora_dist.hub import (
    MORE_ROOM,
    OTHER_CACHE,
    Report,
    Unreachable,
    chain_of,
    download,
    how_to_fetch,
    is_full,
    is_write_protected,
    look_up,
    why_unreachable,
)
from lora_dist.store.fetched import Fetched


def hub_splits(path: str, subset: str | None, revision: str | None) -> dict[str, SourceSplit]:
    """Every split of a hub dataset, downloaded into the cache that `datasets` keeps, or taken from there.

    No code of the dataset is run.

    Raises:
        DataError: it is neither in the cache nor to be had (offline, not found, gated), it has no such subset or
            revision, or it cannot be read.
    """
    with _in_one_line(path, subset, revision):
        builder = _builder(path, subset, revision)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    return {name: _split(name, dataset) for name, dataset in loaded.items()}


def fetch_hub_dataset(path: str, subset: str | None, revision: str | None, report: Report) -> Fetched:
    """Bring a hub dataset into the cache, so that `hub_splits` finds it there without a network.

    Raises:
        DataError: as `hub_splits`.
    """
    from huggingface_hub.errors import HfHubHTTPError

    report(0, 0, f"asking the hub for {path}")
    with _in_one_line(path, subset, revision):
        try:
            with contextlib.suppress(HfHubHTTPError):  # what it refuses, `datasets` says below
                look_up("dataset", path, revision)
            builder = _builder(path, subset, revision)
        except Unreachable as error:  # known at once; `datasets` would try again for half a minute
            builder = _cached_builder_unless(error, path, subset, revision)
        place = Path(builder.cache_dir)
        was_there = place.is_dir()  # `datasets` renames it into place when it is whole
        if not was_there:
            for repository, names in _files_of(builder).items():
                download(look_up("dataset", *repository), names, report)
            report(0, 0, f"writing the rows of {path}")
        builder.download_and_prepare()
    size = sum(file.stat().st_size for file in place.iterdir())
    return Fetched(str(place), size, "already there" if was_there else "fetched")


def _builder(path: str, subset: str | None, revision: str | None) -> Any:
    """The `datasets.DatasetBuilder` (it takes 2 s to import) at the commit that the revision stands for."""
    import datasets
    from datasets.packaged_modules.cache.cache import Cache

    builder = datasets.load_dataset_builder(path, name=subset, revision=revision)
    return _cached_builder(path, subset, revision) if isinstance(builder, Cache) else builder


def _cached_builder(path: str, subset: str | None, revision: str | None) -> Any:
    """The dataset in the cache. `datasets` (5.2) takes whatever was cached last, whichever revision is asked for."""
    from datasets.packaged_modules.cache.cache import Cache

    names = {"repo_id": path, "dataset_name": path.split("/")[-1]}
    newest = Cache(**names, config_name=subset, version="auto", hash="auto")
    place, commit = Path(newest.cache_dir), _cached_commit(path, revision)
    if commit in (None, place.name):
        return newest
    if not place.with_name(commit).is_dir():
        raise FileNotFoundError(errno.ENOENT, _OTHER_REVISION)
    return Cache(**names, config_name=newest.config.name, version=place.parent.name, hash=commit)


def _cached_builder_unless(gone: Unreachable, path: str, subset: str | None, revision: str | None) -> Any:
    """The dataset in the cache; that the hub is gone is what there is to say where nothing of it is there."""
    try:
        return _cached_builder(path, subset, revision)
    except ValueError as error:
        raise error if "Available configs" in str(error) else gone from None


_OTHER_REVISION = "only other revisions of it are in the cache"


def _cached_commit(path: str, revision: str | None) -> str | None:
    """The commit that a revision stood for when the hub last answered."""
    from huggingface_hub import constants

    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    ref = Path(constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}" / "refs" / (revision or "main")
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None


def _files_of(builder: Any) -> dict[tuple[str, str], list[str]]:
    """The files that `download_and_prepare` will ask for, by repository and commit."""
    from huggingface_hub import HfFileSystem

    files, found = HfFileSystem(), {}
    for url in (url for urls in (builder.config.data_files or {}).values() for url in urls):
        if url.startswith("hf://"):
            place = files.resolve_path(url)
            found.setdefault((place.repo_id, place.revision), []).append(place.path_in_repo)
    return found


def _split(name: str, dataset: datasets.Dataset) -> SourceSplit:  # noqa: F821  (datasets takes 2 s to import)
    # `_fingerprint` hashes the folder in the cache (dataset, subset, version, commit) and the split: the same in every
    # process. It has no public name in datasets 5.2.
    return SourceSplit(
        name,
        read=lambda: rows_of_dataset(name, dataset),
        fingerprint=lambda: content_hash([dataset._fingerprint, dataset.num_rows]),
    )


@contextlib.contextmanager
def _in_one_line(path: str, subset: str | None, revision: str | None) -> Iterator[None]:
    """What `datasets` and the hub say, as one line with a fix."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (DatasetsError, HTTPError, OSError, ValueError, RuntimeError) as error:
        raise _explain(error, path, subset, revision) from error


def _explain(error: Exception, path: str, subset: str | None, revision: str | None) -> DataError:
    message = " ".join(str(error).split())
    if (disk := _of_the_disk(error, path, message)) is not None:
        return disk
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
            problem=f"'{path}' is no file or folder here, and not in the cache of hub datasets, and "
            f"{why_unreachable()}",
            fix=f"correct the path, or {how_to_fetch()}",
        )
    if _OTHER_REVISION in message:
        return DataError(
            key="data.revision" if revision else "data.path",
            problem=f"the hub dataset '{path}' is not in the cache at this revision, and {why_unreachable()}",
            fix=how_to_fetch(),
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


def _of_the_disk(error: Exception, path: str, message: str) -> DataError | None:
    if any(is_full(link) for link in chain_of(error)) or "Not enough disk space" in message:
        return DataError(
            key="data.path",
            problem=f"the hub dataset '{path}' does not fit the disk of the cache ({message[:200]})",
            fix=MORE_ROOM,
        )
    if any(is_write_protected(link) for link in chain_of(error)):
        return DataError(
            key="data.path",
            problem=f"the hub dataset '{path}' cannot be written into the cache ({message[:200]})",
            fix=OTHER_CACHE,
        )
    return None


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
