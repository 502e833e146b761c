"""Which linears of a live model a GPU's 2:4 kernels can do, and why not the others.

Sparse tensor cores (NVIDIA, compute capability 8.0 and newer) multiply by weights of which at most 2 in every 4
neighbouring inputs are not zero, at up to twice the speed of dense ones (Mishra et al. 2021, arXiv 2104.08378). torch
reaches them through two libraries, which take different shapes. Nothing here converts anything; kernel_speed.py does.
"""

# Dims: R outputs, C inputs.

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from transformers.pytorch_utils import Conv1D

from lora_dist.models.sparse_lora import SparseVariant
from lora_dist.models.structure import causal_lm

KERNELS = {"cusparselt": SparseSemiStructuredTensorCUSPARSELT, "cutlass": SparseSemiStructuredTensorCUTLASS}
"""torch's classes of packed weights. Their shapes are read off them, so that they are those of the torch at hand."""
_OLDEST = (8, 0)
"""First compute capability with sparse tensor cores (Ampere)."""
_DTYPES = (torch.bfloat16, torch.float16)
"""Float32 kernels take 1:2, another pattern; int8 ones multiply int8 inputs, which no linear here is given."""


@dataclass(frozen=True)
class Host:
    """The device that is to compute."""

    name: str
    capability: tuple[int, int] | None = None
    """Of a CUDA device; None for anything else."""
    has_cusparselt: bool = False
    """Whether this torch was built with it."""

    @property
    def kernel(self) -> Literal["cusparselt", "cutlass"] | None:
        """Which library: cuSPARSELt where it is there; torch's CUTLASS kernels are for 8.x alone (pytorch#132928)."""
        if self.capability is None or self.capability < _OLDEST:
            return None
        if self.has_cusparselt:
            return "cusparselt"
        return "cutlass" if self.capability[0] == _OLDEST[0] else None


def host_of(device: torch.device) -> Host:
    """What there is to know of a live device."""
    if device.type != "cuda":
        return Host(device.type)
    return Host(
        torch.cuda.get_device_name(device),
        torch.cuda.get_device_capability(device),
        torch.backends.cusparselt.is_available(),
    )


@dataclass(frozen=True)
class Linear:
    """What the decision about a linear depends on; its weight is 2:4."""

    shape: tuple[int, int]
    """Outputs, inputs."""
    dtype: torch.dtype
    is_transposed: bool = False
    """Its weight is held inputs first (GPT-2's Conv1D)."""
    adapter: str | None = None
    """What kind of adapter on it computes with the base's weight itself; None where none does."""


def obstacle(linear: Linear, host: Host) -> str | None:
    """Why the device's kernels cannot do this linear; None where they can."""
    if host.capability is None:
        return f"there is no CUDA device (this is a {host.name})"
    if host.capability < _OLDEST:
        return f"the {host.name} has compute capability {_dotted(host.capability)}, and 2:4 kernels take 8.0 or newer"
    if host.kernel is None:
        return (
            f"this torch comes without cuSPARSELt, and its CUTLASS kernels are for compute capability 8.x "
            f"(the {host.name} has {_dotted(host.capability)})"
        )
    if linear.dtype not in _DTYPES:
        return f"2:4 kernels take no {_name(linear.dtype)} (model.dtype: bfloat16 or float16)"
    if linear.is_transposed:
        return "weights held inputs first (Conv1D) have no kernel"
    if linear.adapter is not None:
        return f"the adapter on it ({linear.adapter}) computes with the base's weight itself"
    needed = KERNELS[host.kernel]._DTYPE_SHAPE_CONSTRAINTS[linear.dtype]
    rows, columns = needed.sparse_min_rows, needed.sparse_min_cols
    if linear.shape[0] % rows or linear.shape[1] % columns:
        shape = f"{linear.shape[0]:,} x {linear.shape[1]:,} (outputs x inputs)"
        return f"{host.kernel} takes multiples of {rows} x {columns}, not {shape}"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_two_in_four(weight_RC: Tensor) -> bool:
    """Whether at most 2 of every 4 neighbouring inputs have a weight, in every row."""
    rows, columns = weight_RC.shape
    if columns % 4:
        return False
    return bool(((weight_RC != 0).reshape(rows, -1, 4).sum(-1, dtype=torch.uint8) <= 2).all())


@dataclass(frozen=True)
class Finding:
    """The linears of a model, as the kernels of a device see them."""

    linears: int
    """All but the output head, and but those that adapters consist of."""
    convertible: dict[str, nn.Linear]
    """The 2:4 ones that the kernels can do, by name."""
    obstacles: dict[str, str]
    """Why not, by name, for the other 2:4 ones."""

    @property
    def two_in_four(self) -> int:
        """How many are 2:4."""
        return len(self.convertible) + len(self.obstacles)

    def with_refused(self, reason: str) -> Finding:
        """The same, when the library itself has refused."""
        return Finding(self.linears, {}, self.obstacles | dict.fromkeys(self.convertible, reason))

    @property
    def reason(self) -> str | None:
        """In a line why some (or all) linears stay dense; None where all 2:4 ones can be converted."""
        if not self.two_in_four:
            return f"none of its {self.linears} linears is 2:4 (at most 2 weights in every 4 neighbouring inputs)"
        if not self.obstacles:
            return None
        said = Counter(self.obstacles.values()).most_common()
        if len(said) == 1 and not self.convertible:
            return f"{said[0][0]}; {self.two_in_four} of its {self.linears} linears are 2:4"
        return "; ".join(f"{count} of its {self.two_in_four} 2:4 linears: {why}" for why, count in said)


def find_linears(model: nn.Module, host: Host) -> Finding:
    """Look at the live weights of `model` (with or without adapters)."""
    base = causal_lm(model)
    passed_over = {base.get_output_embeddings(), *_parts_of_adapters(base)}
    adapters = {id(layer.get_base_layer()): layer for layer in base.modules() if isinstance(layer, BaseTunerLayer)}
    linears, convertible, obstacles = 0, {}, {}
    for name, module in base.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or module in passed_over:
            continue
        linears += 1
        weight_RC = module.weight.T if isinstance(module, Conv1D) else module.weight
        if not weight_RC.is_floating_point() or not is_two_in_four(weight_RC):  # 4-bit weights are packed in bytes
            continue
        adapter = _needs_weight(adapters.get(id(module)))
        facts = Linear(tuple(weight_RC.shape), weight_RC.dtype, isinstance(module, Conv1D), adapter)
        why = obstacle(facts, host)
        if why is None:
            convertible[name] = module
        else:
            obstacles[name] = why
    return Finding(linears, convertible, obstacles)


def _parts_of_adapters(base: nn.Module) -> Sequence[nn.Module]:
    """The modules that adapters consist of: a B that nothing has trained is all zero, and so is 2:4."""
    layers = [layer for layer in base.modules() if isinstance(layer, BaseTunerLayer)]
    parts = [getattr(layer, name, None) for layer in layers for name in layer.adapter_layer_names]
    return [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]


def _needs_weight(layer: BaseTunerLayer | None) -> str | None:
    """The kind of adapter, if it does more with its base than to call it (DoRA takes norms of the weight's rows)."""
    if layer is None:
        return None
    if not isinstance(layer, LoraLayer):
        return type(layer).__name__
    others = [variant for variant in layer.lora_variant.values() if not isinstance(variant, SparseVariant)]
    return type(others[0]).__name__ if others else None
