"""LoRA adapters merged into the weights of their base, tensor by tensor from disk to disk.

What is in memory: one shard of the result, the factors, and the tensor at hand (`ties` and `dare`: with the updates of
all adapters for it, in float32). So a model larger than the memory is merged, and one of 4-bit training goes into the
16-bit weights, never into rounded ones.
"""

# Dims: R outputs, C inputs of a linear; the weight of GPT-2's Conv1D is stored [C, R].

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_dist.config.combination import Combination
from lora_dist.config.sections import ModelSection
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.combining import combined_update
from lora_dist.models.factors import Factors, read_factors
from lora_dist.models.merge_stream import Counts, StreamedMerge
from lora_dist.models.mergeable import refuse_unmergeable
from lora_dist.models.scale_merging import ScaleMerge
from lora_dist.models.stored import StoredWeights
from lora_dist.models.targets import find_targets

_CHUNK_WEIGHTS = 2**22
"""Updates are formed and added for so many weights at a time: 16 MiB in float32."""


def open_merge(
    base: ModelSection,
    adapters: Sequence[AdapterFolder],
    combination: Combination | None = None,
    *,
    keep_zeros: bool = False,
    dtype: torch.dtype | None = None,
) -> StreamedMerge:
    """The merge of `adapters` into `base`, whatever their kind; as `Merge` otherwise.

    Raises:
        ModelError: also, an adapter is of a kind that cannot be merged, or not with others.
    """
    combination = combination or Combination.of(len(adapters))
    combination.check(len(adapters))
    refuse_unmergeable(adapters, combination.weights, combination.method)
    if adapters[0].kind == "ia3":
        return ScaleMerge(base, adapters[0], dtype)
    return Merge(base, adapters, combination, keep_zeros=keep_zeros, dtype=dtype)


class Merge(StreamedMerge):
    """LoRA adapters that fit each other and their base, ready to be merged."""

    kind = "lora"

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
    def _changed(self) -> Sequence[str]:
        return tuple(self._linears)

    def _merged(self, name: str, device: torch.device, counts: Counts) -> Tensor:
        """One tensor of the result: the sum is rounded once."""
        target = self._linears.get(name)
        if target is None:
            return self._as_it_is(name)
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


def _scale_rows(merged_RC: Tensor, magnitude_R: Tensor) -> None:
    """DoRA: give each output's weights their length. A row of zeros stays one."""
    length_R = torch.linalg.vector_norm(merged_RC, dim=1)
    merged_RC *= torch.where(length_R > 0, magnitude_R / length_R, 0)[:, None]
