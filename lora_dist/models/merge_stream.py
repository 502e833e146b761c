"""A model rewritten tensor by tensor from disk to disk, some of its tensors changed: what every merge is.

What is in memory: one shard of the result, and the tensor at hand. So a model larger than the memory is merged.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from lora_dist.config.combination import Combination
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.stored import StoredWeights
from lora_dist.models.targets import FLOATS
from lora_dist.store.atomic import sync_file, write_json

_MOST_SHARD, _LEAST_SHARD, _SHARDS = 5 * 10**9, 256 * 2**20, 8
"""Bytes of a file of the result: an eighth of the model, within these bounds."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class MergedWeights:
    """What merging did to the weights of the linears under the adapters."""

    linears: int
    weights: int
    zeros_before: int
    """Zeros among them in the base."""
    zeros_after: int
    filled: int
    """Zeros of the base that the update has filled."""
    kept_zeros: bool
    """Whether the update was masked by the base's zeros."""
    dtype: str
    """Of the merged weights."""


class StreamedMerge(ABC):
    """Adapters that fit each other and their base, ready to be merged."""

    base: ModelSection
    adapters: tuple[AdapterFolder, ...]
    combination: Combination
    dtype: torch.dtype | None
    """Of the result; None for the base's own."""
    keeps_zeros: bool
    """Whether every zero of the base stays one."""
    kind: ClassVar[str]
    """Of the adapters: lora or ia3."""
    _stored: StoredWeights

    @property
    @abstractmethod
    def _changed(self) -> Sequence[str]:
        """The names under which the weights of the linears under the adapters are stored."""

    @abstractmethod
    def _merged(self, name: str, device: torch.device, counts: Counts) -> Tensor:
        """One tensor of the result, on the CPU: rounded once."""

    @property
    def stored_dtype(self) -> torch.dtype:
        """That of the base's files."""
        return self._stored.dtype_of(next(iter(self._changed)))

    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(map(self._bytes_of, self._stored.tensors))

    def dtypes(self) -> set[torch.dtype]:
        """Of the merged linears."""
        return {self._dtype_of(name) for name in self._changed}

    def write(self, folder: Path, progress: Progress, device: torch.device | None = None) -> MergedWeights:
        """Write the merged weights into `folder`: model.safetensors, or shards and their index.

        Raises:
            SafetensorError, OSError: the disk is full.
        """
        device = device or torch.device("cpu")
        shards = deal(
            {name: self._bytes_of(name) for name in self._stored.tensors},
            min(_MOST_SHARD, max(_LEAST_SHARD, self.bytes() // _SHARDS)),
        )
        counts, done = Counts(), 0
        for number, names in enumerate(shards, 1):
            tensors: dict[str, Tensor] = {}
            for name in names:
                progress(done, len(self._stored.tensors), name)
                tensors[name] = self._merged(name, device, counts)
                done += 1
            path = folder / shard_name(number, len(shards))
            save_file(tensors, path, metadata={"format": "pt"})
            sync_file(path)
        if len(shards) > 1:
            _write_index(folder, shards, self.bytes())
        progress(done, done, "merged")
        return MergedWeights(
            linears=len(self._changed),
            kept_zeros=self.keeps_zeros,
            dtype=", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in self.dtypes())),
            **vars(counts),
        )

    def _dtype_of(self, name: str) -> torch.dtype:
        stored = self._stored.dtype_of(name)
        return self.dtype if self.dtype is not None and stored in FLOATS else stored

    def _bytes_of(self, name: str) -> int:
        return math.prod(self._stored.tensors[name].shape) * self._dtype_of(name).itemsize

    def _finite(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.dtype not in FLOATS or not tensor.numel() or all(map(torch.isfinite, tensor.aminmax())):
            return tensor
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            key=name,
            problem=f"is not finite when merged, in {dtype}",
            fix="use --dtype bfloat16, which has float32's range"
            if dtype == "float16"
            else "look at the base's weights",
        )

    def _as_it_is(self, name: str) -> Tensor:
        """A tensor that no adapter changes, in the result's dtype."""
        own, dtype = self._stored.dtype_of(name), self._dtype_of(name)
        tensor = self._stored.read(name, dtype=dtype)
        return tensor if own == dtype else self._finite(name, tensor)


@dataclass
class Counts:
    """Weights and zeros of the linears under adapters, added up tensor by tensor."""

    weights: int = 0
    zeros_before: int = 0
    zeros_after: int = 0
    filled: int = 0

    def add(self, base: Tensor, merged: Tensor) -> None:
        """Count the zeros of a weight before and after."""
        zeros = base.numel() - int(torch.count_nonzero(base))  # four times as fast as a sum of booleans
        self.weights += base.numel()
        self.zeros_before += zeros
        self.zeros_after += merged.numel() - int(torch.count_nonzero(merged))
        self.filled += int(torch.count_nonzero((base == 0) & (merged != 0))) if zeros else 0


def deal(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in their order, dealt to shards of at most so many bytes; a tensor above that has one to itself."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def shard_name(number: int, shards: int) -> str:
    """The file of shard `number`, from 1, as transformers names it."""
    return SAFE_WEIGHTS_NAME if shards == 1 else f"model-{number:05d}-of-{shards:05d}.safetensors"


def _write_index(folder: Path, shards: Sequence[Sequence[str]], size: int) -> None:
    files = {name: shard_name(number, len(shards)) for number, names in enumerate(shards, 1) for name in names}
    write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": {"total_size": size}, "weight_map": files})
