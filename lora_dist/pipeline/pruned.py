"""The pruning stage: from the source's weights to `pruned/`, once for all runs of an experiment that prune alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_dist.config.experiment import Run
from lora_dist.config.pruning import PruneSection
from lora_dist.data.tokens import TokenSet
from lora_dist.models.companions import companions
from lora_dist.models.device import device_of, dtype_of, peak_memory, release_memory, reset_peak_memory
from lora_dist.models.loading import context_length, empty_model
from lora_dist.models.skeleton import skeleton
from lora_dist.models.stored import StoredWeights
from lora_dist.models.structure import decoder_blocks
from lora_dist.pipeline.preflight import tokens_on_disk
from lora_dist.pruning.calibration import calibration_ids, calibration_length, hash_of_ids
from lora_dist.pruning.output import PrunedModel, holds_pruning, link_model
from lora_dist.pruning.stream import Stream
from lora_dist.store.atomic import check_free, make_folder
from lora_dist.store.folders import RunFolder
from lora_dist.store.lock import Held, exclusive
from lora_dist.store.sizes import bytes_in
from lora_dist.team import Team

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int, str], None]

_POLL_S = 1.0
_REST_BYTES = 256 * 2**20
"""Tensors outside the blocks are written in shards of about this size."""


def prune_stage(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    team: Team,
    progress: Progress,
    chosen: range | None = None,
) -> bool:
    """Leave the pruned model of a run in its folder, or go on from the first block that is not on the disk.

    Every rank calls this. Runs of one experiment that prune alike share one pruned model: who comes while another
    prunes waits for it.

    Args:
        chosen: prune these blocks only (`mode: dense_inputs`); others may be at work on the rest.
    Returns:
        Whether the model is complete; only with `chosen` it may not be.
    Raises:
        Interrupted: by `progress`; the blocks that are written are kept.
        UserError, LoraDistError: see `pruning.stream`.
    """
    key, shared = run.pruning_key, folder.experiment.pruned(run.pruning_key)
    if team.first_does(lambda: holds_pruning(folder.pruned, key)):
        return True
    with ExitStack() as lock:
        if chosen is None:
            _wait_for_turn(shared, lock, team, progress)
        if not team.first_does(lambda: holds_pruning(shared, key)):
            ids_NT = _calibration(run, folder, tokens, tokenizer, team, progress)
            job = _Job.of(run, shared, ids_NT, team)
            team.first_does(job.begin)
            reset_peak_memory(job.device)
            job.stream(lambda *beat: progress("prune", *beat)).run(ids_NT, chosen)
            release_memory()
            if not team.first_does(lambda: job.finish(tokenizer)):
                return False
        team.first_does(lambda: link_model(shared, folder.pruned))
    return True


def _wait_for_turn(shared: Path, lock: ExitStack, team: Team, progress: Progress) -> None:
    """Hold the lock of the pruned model, on behalf of all ranks."""

    def take() -> str:
        make_folder(shared.parent)
        try:
            lock.enter_context(exclusive(shared.with_name(f".{shared.name}.lock")))
        except Held as held:
            return str(held.owner or "another process")
        return ""

    while owner := team.first_does(take):
        progress("prune", 0, 0, f"{owner} is pruning the same; waiting for it")
        time.sleep(_POLL_S)


def _calibration(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    team: Team,
    progress: Progress,
) -> Tensor | None:
    """The calibration tokens, as rank 0 reads them; None for a kind that takes none."""
    section = _section(run)
    if not section.uses_data:
        return None

    def read() -> Tensor:
        context = context_length(empty_model(run.model))
        source = tokens
        if section.calibration.data is not None:
            data = section.calibration.data
            source = tokens_on_disk(data, tokenizer, context, folder.experiment.tokens, _unheard)
        length = calibration_length(section.calibration, context)
        return calibration_ids(source.rows("train"), section.calibration, length)

    progress("prune", 0, 0, "reading the calibration tokens")
    return team.first_does(read)


def _unheard(*_: object) -> None:
    """Progress of what rank 0 does alone."""


def _section(run: Run) -> PruneSection:
    if run.prune is None:
        raise ValueError("this run prunes nothing")
    return run.prune


@dataclass(frozen=True)
class _Job:
    """One pruned model to be made: what it is made of, and where it goes."""

    run: Run
    section: PruneSection
    ids_NT: Tensor | None  # noqa: N815
    team: Team
    device: torch.device
    dtype: torch.dtype
    model: PreTrainedModel
    """Without weights."""
    weights: StoredWeights
    blocks: int
    rest: dict[int, list[str]]
    """Tensors outside the blocks by the number of their shard."""
    output: PrunedModel

    @classmethod
    def of(cls, run: Run, shared: Path, ids_NT: Tensor | None, team: Team) -> _Job:
        """The model that `run` wants, to be put into `shared`."""
        device = device_of(team.world)
        dtype = dtype_of(run.model, device)
        model, weights = skeleton(run.model, dtype), StoredWeights.of_source(run.model)
        blocks_name, blocks = decoder_blocks(model)
        in_blocks = {stored for name, stored in weights.names_for(model).items() if name.startswith(f"{blocks_name}.")}
        rest = _rest_shards(weights, in_blocks, len(blocks))
        output = PrunedModel(shared, len(blocks) + len(rest))
        return cls(run, _section(run), ids_NT, team, device, dtype, model, weights, len(blocks), rest, output)

    @property
    def calibration(self) -> dict[str, Any]:
        """Size and hash of the calibration tokens."""
        samples, length = tuple(self.ids_NT.shape) if self.ids_NT is not None else (0, 0)
        return {"samples": samples, "length": length, "hash": hash_of_ids(self.ids_NT) if samples else ""}

    def begin(self) -> None:
        """Take up the blocks of an earlier attempt, if they were made of the same."""
        _check_space(self.output, self.weights)
        source = {"source": self.weights.fingerprint(), "dtype": str(self.dtype)}
        self.output.begin(source | {"calibration": self.calibration["hash"]})
        log.info("pruning %d blocks on %d rank(s)", self.blocks, self.team.world.size)

    def stream(self, progress: Callable[[int, int, str], None]) -> Stream:
        """The model on its way through."""
        return Stream(self.section, self.model, self.weights, self.output, self.team, self.device, self.dtype, progress)

    def finish(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Put the model together once all blocks are there; who does a part of them may find that they are not."""
        with ExitStack() as lock:
            try:
                lock.enter_context(exclusive(self.output.partial.with_name(f".{self.output.folder.name}.finish")))
            except Held:
                return False
            if self.output.is_complete:
                return True
            if len(self.output.done(contents=False)) < self.blocks:
                return False
            for number, names in self.rest.items():
                self.output.write_rest(number, {name: self.weights.read(name) for name in names})
            self.output.finish(self.rest, companions(self.run.model, tokenizer), self._report())
        return True

    def _report(self) -> dict[str, Any]:
        """What pruning.json says beside its blocks."""
        return {
            "model": self.run.model.path,
            "revision": self.run.model.revision,
            "settings": self.section.relevant(),
            "is_approximate": self.section.uses_data and self.section.mode == "dense_inputs",
            "calibration": self.calibration,
            "dtype": str(self.dtype).removeprefix("torch."),
            "world_size": self.team.world.size,
            "peak_memory_kind": peak_memory(self.device).kind,
        }


def _rest_shards(weights: StoredWeights, in_blocks: set[str], first: int) -> dict[int, list[str]]:
    """What is in no block, dealt to shards after those of the blocks, in the order of the source."""
    shards: list[list[str]] = []
    room = 0
    for name in weights.tensors:
        if name in in_blocks:
            continue
        size = weights.bytes_of(name)
        if not shards or size > room:
            shards.append([])
            room = _REST_BYTES
        shards[-1].append(name)
        room -= size
    return {first + number: names for number, names in enumerate(shards)}


def _check_space(output: PrunedModel, weights: StoredWeights) -> None:
    """Make sure that the pruned model fits on the disk before a part of it fills the rest."""
    folder = make_folder(output.folder.parent)
    there = bytes_in(output.partial)
    needed = int(weights.bytes() * (1 + 1 / 16)) - there  # a bit of mask for each weight of 16 bits
    check_free(folder, needed, "a pruned model", "free some space, or choose another output_dir")
