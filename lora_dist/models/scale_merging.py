"""An (IA)^3 adapter merged into the weights of its base: each row or column times its trained scale.

What scales a linear's outputs scales its bias too (arXiv 2205.05638, section 3.3: no cost is left at inference). A zero
stays one, so that a pruned base stays pruned.
"""

# Dims: R outputs, C inputs of a linear; the weight of GPT-2's Conv1D is stored [C, R].

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_dist.config.combination import Combination
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ModelError
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.factors import damaged, tensors_in
from lora_dist.models.loading import empty_model
from lora_dist.models.merge_stream import Counts, StreamedMerge
from lora_dist.models.stored import StoredWeights
from lora_dist.models.targets import FLOATS, misfit, named_linears, quantised, twins_of

_KEY = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.ia3_l")


@dataclass(frozen=True)
class Scale:
    """What a linear's outputs or inputs are multiplied by."""

    vector: Tensor
    """[R] or [C]."""
    of_inputs: bool


def read_scales(adapter: AdapterFolder) -> dict[str, Scale]:
    """All scales in the file's own precision, by the linear's name in the model.

    Raises:
        ModelError: the file is damaged, or holds something else than scales of linears.
    """
    scales: dict[str, Scale] = {}
    for key, tensor in tensors_in(adapter.weights).items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.ndim != 2 or 1 not in tensor.shape or not tensor.numel():
            raise damaged(adapter.weights, f"holds '{key[:120]}', which is no scale of a linear")
        if not torch.isfinite(tensor).all():
            raise damaged(adapter.weights, f"is not finite at {key}", "train it again with a lower learning rate")
        scales[match["module"]] = Scale(tensor.flatten(), of_inputs=tensor.shape[0] == 1)
    if not scales:
        raise damaged(adapter.weights, "is empty")
    return scales


class ScaleMerge(StreamedMerge):
    """An (IA)^3 adapter that fits its base, ready to be merged."""

    kind = "ia3"

    def __init__(self, base: ModelSection, adapter: AdapterFolder, dtype: torch.dtype | None = None) -> None:
        """Read the scales, and compare them with the base's shapes.

        Args:
            dtype: of the result; the base's own, if not given.
        Raises:
            ModelError: the file is damaged, or the adapter does not fit the base.
        """
        self.base, self.adapters, self.dtype = base, (adapter,), dtype
        self.combination, self.keeps_zeros = Combination.of(1), True
        self._scales = read_scales(adapter)
        self._stored = StoredWeights.of_source(base)
        self._weights, self._biases = _find_scaled(base, self._stored, adapter, self._scales)

    @property
    def _changed(self) -> Sequence[str]:
        return tuple(self._weights)

    def _merged(self, name: str, device: torch.device, counts: Counts) -> Tensor:
        if name in self._biases:
            base_R = self._stored.read(name, device=device)
            return self._finite(name, _times(base_R, self._biases[name], device).to(self._dtype_of(name)).cpu())
        if name not in self._weights:
            return self._as_it_is(name)
        base = self._stored.read(name, device=device)
        merged = _times(base, self._weights[name], device).to(self._dtype_of(name))
        counts.add(base, merged)
        return self._finite(name, merged.cpu())


def _times(base: Tensor, scale: Tensor, device: torch.device) -> Tensor:
    """The product in float32 (in float64, where the base is), not rounded yet."""
    return base.to(torch.promote_types(base.dtype, torch.float32)) * scale.to(device, torch.float32)


def _find_scaled(
    base: ModelSection, stored: StoredWeights, adapter: AdapterFolder, scales: Mapping[str, Scale]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """By the names under which they are stored: weights, and biases, with the scale as each is multiplied by it."""
    model = empty_model(base)
    if getattr(model.config, "quantization_config", None) is not None:
        raise quantised(base, "is stored quantised")
    _check_whole(adapter, base, model, scales)
    names, twins, modules = stored.names_for(model), twins_of(model), dict(model.named_modules())
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for module, scale in scales.items():
        if f"{module}.weight" in twins:
            problem = f"adapts {module}, whose weight is also that of {twins[f'{module}.weight']}"
            raise ModelError(key=adapter.name, problem=problem, fix="open it with peft, unmerged")
        linear, weight = modules.get(module), names.get(f"{module}.weight")
        if weight is None or not isinstance(linear, nn.Linear | Conv1D):
            raise misfit(adapter, base, f"there is no linear '{module[:120]}' in it")
        dim = int(isinstance(linear, Conv1D)) ^ int(scale.of_inputs)  # which of the stored weight's
        found = stored.tensors[weight]
        if found.shape[dim] != len(scale.vector):
            raise misfit(adapter, base, f"{module} is {list(found.shape)} there, and has {len(scale.vector)} scales")
        if stored.dtype_of(weight) not in FLOATS:
            raise quantised(base, f"holds {module} as {found.dtype}")
        weights[weight] = scale.vector if dim else scale.vector[:, None]
        if not scale.of_inputs and (bias := names.get(f"{module}.bias")) is not None:
            biases[bias] = scale.vector
    return weights, biases


def _check_whole(
    adapter: AdapterFolder, base: ModelSection, model: PreTrainedModel, scales: Mapping[str, Scale]
) -> None:
    """Make sure that the file has what its config names, no more and no less."""
    named = set(named_linears(adapter, model))
    if lost := sorted(named - set(scales)):
        raise ModelError(
            key=str(adapter.weights),
            problem=f"lacks the scale of {lost[0]}, and of {len(lost)} linears in all, which its config names",
            fix="copy or download it again, or give the base that it was trained on",
        )
    if named and (more := sorted(set(scales) - named)):
        raise misfit(adapter, base, f"{more[0]} is none of the target_modules of its config")
