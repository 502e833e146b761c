"""Adapters merged into the weights of their base, tensor by tensor from disk to disk.

What is in memory: one shard of the result, the factors, and the tensor at hand (`ties` and `dare`: with the updates of
all adapters for it, in float32). So a model larger than the memory is merged, and one of 4-bit training goes into the
16-bit weights, never into rounded ones.
"""

# Dims: R outputs, C inputs of a linear; the weight of GPT-2's Conv1D is stored [C, R].

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from lora_dist.config.combination import Combination
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.combining import combined_update
from lora_dist.models.factors import Factors, read_factors
from lora_dist.models.mergeable import refuse_unmergeable
from lora_dist.models.stored import StoredWeights
from lora_dist.models.targets import FLOATS, find_targets
from lora_dist.store.atomic import sync_file, write_json

_MOST_SHARD, _LEAST_SHARD, _SHARDS = 5 * 10**9, 256 * 2**20, 8
"""Bytes of a file of the result: an eighth of the model, within these bounds."""
_CHUNK_WEIGHTS = 2**22
"""Updates are formed and added for so many weights at a time: 16 MiB in float32."""
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


class Merge:
    """Adapters that fit each other and their base, ready to be merged."""

    def __init__(
        self,
        base: ModelSection,
        adapters: Sequence[AdapterFolder],
        combination: Combination | None = None,
        *,
        keep_zeros: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Read the factors, and compare them with the base's shapes.

        Args:
            keep_zeros: mask the update by the base's zeros, even if the adapters were not trained so. An adapter that
                was is always masked, and so is all that is merged together with it.
            dtype: of the result; the base's own, if not given.
        Raises:
            ModelError: a file is damaged, or an adapter does not fit the base.
            ConfigError: the adapters cannot be combined so.
        """
        self.combination = combination or Combination.of(len(adapters))
        self.combination.check(len(adapters))
        self.base, self.adapters, self.dtype = base, tuple(adapters), dtype
        self.keeps_zeros = keep_zeros or any(adapter.keeps_zeros for adapter in adapters)
        refuse_unmergeable(self.adapters, self.combination.weights, self.combination.method)
        self._factors = [read_factors(adapter) for adapter in self.adapters]
        self._stored = StoredWeights.of_source(base)
        self._linears = find_targets(base, self._stored, self.adapters, self._factors, self.combination)

    @property
    def stored_dtype(self) -> torch.dtype:
        """That of the base's files."""
        return self._stored.dtype_of(next(iter(self._linears)))

    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(map(self._bytes_of, self._stored.tensors))

    def dtypes(self) -> set[torch.dtype]:
        """Of the merged linears."""
        return {self._dtype_of(name) for name in self._linears}

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
        counts, done = _Counts(), 0
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
            linears=len(self._linears),
            kept_zeros=self.keeps_zeros,
            dtype=", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in self.dtypes())),
            **vars(counts),
        )

    def _dtype_of(self, name: str) -> torch.dtype:
        stored = self._stored.dtype_of(name)
        return self.dtype if self.dtype is not None and stored in FLOATS else stored

    def _bytes_of(self, name: str) -> int:
        return math.prod(self._stored.tensors[name].shape) * self._dtype_of(name).itemsize

    def _merged(self, name: str, device: torch.device, counts: _Counts) -> Tensor:
        """One tensor of the result: the sum is rounded once."""
        target = self._linears.get(name)
        if target is None:
            own, dtype = self._stored.dtype_of(name), self._dtype_of(name)
            tensor = self._stored.read(name, dtype=dtype)
            return tensor if own == dtype else self._finite(name, tensor)
        base = self._stored.read(name, device=device)
        merged = torch.empty_like(base, dtype=self._dtype_of(name))
        base_RC, merged_RC = (base.T, merged.T) if target.is_turned else (base, merged)
        parts = [factors.get(target.module) for factors in self._factors]
        rows = len(base_RC) if self.combination.sees_whole_updates() else max(1, _CHUNK_WEIGHTS // base_RC.shape[1])
        for start in range(0, len(base_RC), rows):
            chunk = slice(start, start + rows)
            own = [part and part.of_outputs(chunk) for part in parts]
            merged_RC[chunk] = self._sum(target.module, base_RC[chunk], own, device)
            counts.add(base_RC[chunk], merged_RC[chunk])
        return self._finite(name, merged.cpu())

    def _sum(self, module: str, base_RC: Tensor, parts: Sequence[Factors | None], device: torch.device) -> Tensor:
        """Some rows of a linear's weight with their update, not rounded yet."""
        keep_RC = base_RC != 0 if self.keeps_zeros else None
        update_RC = combined_update(parts, self.combination, module, keep_RC, device)
        sum_RC = update_RC.add_(base_RC) if base_RC.dtype != torch.float64 else update_RC.double() + base_RC
        magnitude_R = parts[0].magnitude if parts[0] else None
        if magnitude_R is not None:
            _scale_rows(sum_RC, magnitude_R.to(device))
        return sum_RC

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


def _scale_rows(merged_RC: Tensor, magnitude_R: Tensor) -> None:
    """DoRA: give each output's weights their length. A row of zeros stays one."""
    length_R = torch.linalg.vector_norm(merged_RC, dim=1)
    merged_RC *= torch.where(length_R > 0, magnitude_R / length_R, 0)[:, None]


@dataclass
class _Counts:
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
