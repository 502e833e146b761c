"""A model's weights on the disk, read one at a time: what a model larger than the memory is worked on by."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.models.sources import Report, model_error
from lora_dist.models.weights import check_weights

_PIECE_BYTES = 64 * 2**20
"""A file is mapped for one piece at a time: what is mapped counts as this process's memory."""
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it, such as BF16."""


class StoredWeights:
    """The tensors of a model's safetensors files by their names there."""

    def __init__(self, section: ModelSection, files: Iterable[Path]) -> None:
        self.section, self.files = section, tuple(files)
        self.tensors: dict[str, Stored] = {}
        for path in self.files:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(name)
                    self.tensors[name] = Stored(path, tuple(part.get_shape()), part.get_dtype())

    @classmethod
    def of_source(cls, section: ModelSection, report: Report | None = None) -> StoredWeights:
        """Those of a pretrained model.

        Raises:
            ModelError: they are not there, or a file is damaged.
        """
        return cls(section, check_weights(section, report))

    def fingerprint(self) -> str:
        """Changes when a file is replaced: a hash of names, sizes and times, without reading the weights."""
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    def bytes_of(self, name: str) -> int:
        """Bytes of one tensor."""
        return math.prod(self.tensors[name].shape) * self.dtype_of(name).itemsize

    def read(self, name: str, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor as a copy of its own, in the dtype that it has on the disk or in another one."""
        stored = self.tensors[name]
        if not stored.shape:
            with safe_open(stored.file, framework="pt") as file:
                return file.get_tensor(name).to(device=device, dtype=dtype, copy=True)
        own = dtype or self.dtype_of(name)
        whole = torch.empty(stored.shape, dtype=own, device=device)
        rows = max(1, _PIECE_BYTES // max(1, whole[0].numel() * whole.element_size()))
        for start in range(0, stored.shape[0], rows):
            with safe_open(stored.file, framework="pt") as file:
                whole[start : start + rows] = file.get_slice(name)[start : start + rows]
        return whole

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype that a tensor has on the disk."""
        stored = self.tensors[name]
        if stored.dtype in _DTYPES:
            return _DTYPES[stored.dtype]
        with safe_open(stored.file, framework="pt") as file:
            return file.get_slice(name)[:0].dtype

    def names_for(self, model: PreTrainedModel) -> dict[str, str]:
        """Parameter and persistent buffer of `model` -> the name under which it is stored; tied ones may have none.

        Raises:
            ModelError: a weight is not stored, or has another shape.
        """
        prefix = f"{model.base_model_prefix}."
        found: dict[str, str] = {}
        missing: list[str] = []
        for name, tensor in model.state_dict(keep_vars=True).items():
            candidates = (name, name.removeprefix(prefix), prefix + name)
            stored = next((candidate for candidate in candidates if candidate in self.tensors), None)
            stored = stored or self._renamed(model, name, tensor)
            if stored is None:
                missing.append(name)
            elif self.tensors[stored].shape != tuple(tensor.shape):
                raise self._misfit(name, f"{list(self.tensors[stored].shape)} instead of {list(tensor.shape)}")
            else:
                found[name] = stored
        self._refuse_missing(model, missing, found)
        return found

    def _renamed(self, model: PreTrainedModel, name: str, tensor: Tensor) -> str | None:
        """The name that transformers saves a weight under, where it has another one in memory (GPT-NeoX's head)."""
        names = list(revert_weight_conversion(model, {name: tensor.to("meta")}))
        return names[0] if len(names) == 1 and names[0] in self.tensors else None

    def _refuse_missing(self, model: PreTrainedModel, missing: list[str], found: Mapping[str, str]) -> None:
        """A weight may only lack where it is another one's twin."""
        there = {id(tensor) for name, tensor in _named(model) if name in found}
        twins = {name for name, tensor in _named(model) if id(tensor) in there}
        lost = [name for name in missing if name not in twins]
        if lost:
            raise self._misfit(lost[0], f"not stored under this name ({len(lost)} are not)")

    def _misfit(self, name: str, what: str) -> ModelError:
        return model_error(
            self.section,
            f"has weights that do not go with its config.json: {name} is {what}",
            "open it with AutoModelForCausalLM and save it with save_pretrained, then give that folder",
        )


def _named(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return model.named_parameters(remove_duplicate=False)
