"""Prunings in this process, without tokenizers or data: a saved model, random tokens, the real stream and folder."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lora_dist.config.pruning import PruneSection
from lora_dist.config.sections import ModelSection
from lora_dist.models.masks import read_masks
from lora_dist.models.skeleton import skeleton
from lora_dist.models.stored import StoredWeights
from lora_dist.models.structure import decoder_blocks
from lora_dist.pruning.crew import Crew
from lora_dist.pruning.output import PrunedModel
from lora_dist.pruning.stream import Stream
from lora_dist.team import Team

ALONE = Team()


def ids_of(samples: int, length: int, vocabulary: int, seed: int = 0) -> Tensor:
    return torch.randint(3, vocabulary, (samples, length), generator=torch.Generator().manual_seed(seed))


class CrewOfThreads(Crew):
    """One of several ranks, each of which is a thread here; what they tell each other goes over a board."""

    def __init__(self, rank: int, size: int, board: dict, barrier: Barrier) -> None:
        self.rank, self.size, self._board, self._barrier = rank, size, board, barrier

    def _told(self, tensor: Tensor) -> dict[int, Tensor]:
        self._barrier.wait(60)
        self._board[self.rank] = tensor.clone()
        self._barrier.wait(60)
        return dict(self._board)

    def add_up(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(list(self._told(tensor).values())).sum(0))

    def copy_from(self, tensor: Tensor, rank: int) -> None:
        tensor.copy_(self._told(tensor)[rank])


def on_ranks(size: int, action: Callable[[Crew], Any]) -> list[Any]:
    """What `action` gives on each of so many ranks."""
    board, barrier = {}, Barrier(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: action(CrewOfThreads(rank, size, board, barrier)), range(size)))


def silent(*_: object) -> None:
    """Show nothing."""


def stream_to(
    folder: Path, source: Path, section: PruneSection, *, team: Team = ALONE, progress=silent, dtype=torch.float32
) -> tuple[Stream, PrunedModel]:
    """A stream from a saved model into `folder`, begun and not run."""
    model = skeleton(ModelSection(path=str(source)), dtype)
    weights = StoredWeights.of_source(ModelSection(path=str(source)))
    output = PrunedModel(folder, len(decoder_blocks(model)[1]) + 1)
    team.first_does(lambda: output.begin({"source": weights.fingerprint()}))
    return Stream(section, model, weights, output, team, torch.device("cpu"), dtype, progress), output


def prune_to(
    folder: Path, source: Path, section: PruneSection, ids_NT: Tensor | None, *, team: Team = ALONE, **options
) -> Path:
    """Prune a saved model into `folder`, whole."""
    stream, output = stream_to(folder, source, section, team=team, **options)
    stream.run(ids_NT)
    team.first_does(lambda: _finish(stream, output, source))
    return folder


def _finish(stream: Stream, output: PrunedModel, source: Path) -> None:
    in_blocks = {name for block in output.done().values() for name in block.names}
    names = [name for name in stream.weights.tensors if name not in in_blocks]
    number = len(stream.blocks)
    output.write_rest(number, {name: stream.weights.read(name) for name in names})
    output.finish({number: names}, {"config.json": (source / "config.json").read_bytes()}, {})


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def masks_of(folder: Path) -> dict[str, Tensor]:
    return dict(read_masks(folder))


def shards_of(folder: Path) -> dict[str, bytes]:
    """Every weight and mask file, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def zero_half(model):
    """About half of the weights of a model's linears, at random; not the head's."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight[torch.rand_like(weight) < 0.5] = 0
