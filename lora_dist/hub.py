"""The Hugging Face hub: what a repository holds, and its files brought into the shared cache, with a bar."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError
from tqdm.auto import tqdm

Report = Callable[[int, int, str], None]
"""(bytes done, bytes in all or 0, text); may raise, and the download ends."""
MORE_ROOM = "free some space, or set HF_HOME to a folder on a larger disk"
OTHER_CACHE = "set HF_HOME to a folder that you may write to"
_FILES_AT_ONCE = 8
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    kind: Literal["model", "dataset"]
    name: str
    commit: str
    sizes: dict[str, int]
    """Bytes of each file, by its path."""

    @property
    def cache(self) -> Path:
        """Its folder in the shared cache."""
        return Path(constants.HF_HUB_CACHE) / f"{self.kind}s--{self.name.replace('/', '--')}"

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of these files that are not in the cache at this commit."""
        return [
            name
            for name in names
            if not isinstance(try_to_load_from_cache(self.name, name, revision=self.commit, repo_type=self.kind), str)
        ]


class Unreachable(ConnectionError):
    """Nobody answers where the hub should be, or this process is told to ask nobody."""


def is_offline() -> bool:
    """Whether this process is told to ask nobody (HF_HUB_OFFLINE)."""
    return constants.HF_HUB_OFFLINE


def why_unreachable() -> str:
    """Half a sentence."""
    if is_offline():
        return "the hub is not asked (HF_HUB_OFFLINE or launch.slurm.offline)"
    return f"the hub ({constants.ENDPOINT}) cannot be reached"


def how_to_fetch() -> str:
    """What to do where something is not in the cache."""
    terms = "without HF_HUB_OFFLINE and with the same HF_HOME" if is_offline() else "with the same HF_HOME"
    return f"fetch it by `lora-dist prefetch EXPERIMENT` where the hub can be reached, {terms}"


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or a quota on it, is used up."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_write_protected(error: BaseException) -> bool:
    """Whether an error says that one may not write there."""
    return isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


def chain_of(error: BaseException) -> list[BaseException]:
    """An error, and those that it was raised from: libraries wrap what the hub and the system say."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def look_up(kind: Literal["model", "dataset"], name: str, revision: str | None) -> Repository:
    """Ask the hub what there is; once, without trying again.

    Raises:
        HfHubHTTPError: it answers that there is no such repository or revision, or that one may not have it.
        Unreachable: it does not answer.
    """
    ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
    with _unreachable():
        found = ask(name, revision=revision, files_metadata=True)
    return Repository(kind, name, found.sha, {file.rfilename: file.size or 0 for file in found.siblings or ()})


def download(repository: Repository, names: Sequence[str], report: Report) -> int:
    """Bring these files into the cache, several at a time; what is there stays. The bytes of those that were not.

    A file is in the cache whole or not at all: a download that was killed starts with its first unfinished file.

    Raises:
        OSError: they do not fit the cache's disk (ENOSPC).
        HfHubHTTPError: the hub refuses one.
        Unreachable: it does not answer any more.
        Whatever `report` raises.
    """
    missing = repository.missing(names)
    if not missing:
        return 0
    _remove_abandoned(repository)
    total = sum(repository.sizes.get(name, 0) for name in missing)
    _check_room(repository, total)
    bytes_so_far = _Tally(total, repository.name, report)
    with _unreachable(), ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        waiting = [pool.submit(_download_file, repository, name, bytes_so_far) for name in missing]
        try:
            for done in as_completed(waiting):
                done.result()
        except BaseException:
            bytes_so_far.is_over = True  # the other threads end at their next bytes
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return total


def _download_file(repository: Repository, name: str, tally: _Tally) -> None:
    hf_hub_download(
        repository.name, name, repo_type=repository.kind, revision=repository.commit, tqdm_class=tally.bar_class()
    )


class _Over(Exception):
    """Another thread has failed."""


class _Tally:
    """Adds up what the threads have received."""

    def __init__(self, total: int, text: str, report: Report) -> None:
        self.is_over = False
        self._done, self._total, self._text, self._report = 0, total, text, report
        self._lock = Lock()
        report(0, total, text)

    def add(self, count: float | None) -> None:
        """Say that so many bytes have come."""
        if self.is_over:
            raise _Over
        with self._lock:
            self._done += int(count or 0)
            self._report(min(self._done, self._total), self._total, self._text)

    def bar_class(self) -> type[tqdm]:
        """A bar that draws nothing: huggingface_hub tells how far a file is by what it calls its bar with."""
        tally = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs | {"disable": True})

            def update(self, n: float | None = 1) -> None:
                tally.add(n)

        return Bar


def _check_room(repository: Repository, needed: int) -> None:
    there = next(parent for parent in (repository.cache, *repository.cache.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:,.1f} MB to fetch, {free / 1e6:,.1f} MB free")


def _remove_abandoned(repository: Repository) -> None:
    """What a killed download has left: huggingface_hub (2.4) begins each under a name of its own, and looks for none.

    One that is being written grows, or is given up by its own process, within seconds.
    """
    for file in repository.cache.glob("blobs/*.incomplete"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _ABANDONED_S:
                file.unlink()


@contextlib.contextmanager
def _unreachable() -> Iterator[None]:
    """The errors of the HTTP library below huggingface_hub, whatever it is called, as one of Python's."""
    try:
        yield
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code >= 500:
            raise Unreachable(str(error)) from error
        raise
    except (HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error
