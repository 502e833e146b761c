"""prefetch: everything that comes from elsewhere, and everything that comes before the runs, on a login node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_dist.config.experiment import Experiment
from lora_dist.config.slurm import OFFLINE
from lora_dist.dispatch.checks import fetch_for
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.store.fetched import Fetched, Source
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.sizes import bytes_in
from lora_dist.training.stop import StopFlag
from lora_dist.verbs.prepare import Outset
from lora_dist.world import World


@dataclass(frozen=True)
class PrefetchResult:
    """What `prefetch` leaves."""

    folder: ExperimentFolder
    sources: list[Source]
    """Models, data and tokens: where each is, how large, and whether it was there before."""
    waiting: list[Path]
    """The folders of the runs that have no record."""
    finished: int
    """Runs that have one."""


def prefetch(experiment: Experiment, *, listener: Listener | None = None) -> PrefetchResult:
    """Fetch the models and the data of every run into the shared cache, tokenise once, and make the run folders.

    What has been fetched is then opened as a node without a network opens it. The same call again fetches nothing,
    and one that was interrupted goes on at the first file that is not whole.

    Raises:
        Interrupted: a signal came.
        Refused: something cannot be had (no such repository, gated, no network, disk full), or a run is refused for
            another reason; no experiment folder is left behind then, but what was fetched stays in the cache.
        StorageError: the experiment's folder cannot be used, or a record in it is corrupt.
    """
    listener, stop = listener or Listener(), StopFlag(dies_when_asked_again=False)
    outset = Outset.of(experiment)
    before = _token_sets(outset.folder)
    with stop.listening():
        with Nursery() as online:
            sources = fetch_for(online, outset.runs, listener, stop)
        with Nursery(OFFLINE) as offline:
            outset.make_ready(outset.missing, [World()] * len(outset.missing), offline, listener, stop)
    sources += [_tokens(folder, was_there=folder in before) for folder in sorted(_token_sets(outset.folder))]
    waiting = [outset.folder.run(run.id).path for run in outset.missing]
    return PrefetchResult(outset.folder, sources, waiting, len(outset.runs) - len(outset.missing))


def _token_sets(folder: ExperimentFolder) -> set[Path]:
    return {manifest.parent for manifest in folder.tokens.glob("*/manifest.json")}


def _tokens(folder: Path, *, was_there: bool) -> Source:
    return Source(
        "tokens", folder.name, Fetched(str(folder), bytes_in(folder), "already there" if was_there else "made here")
    )
