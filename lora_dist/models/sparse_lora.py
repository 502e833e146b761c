"""LoRA that keeps the zeros of its base: a variant of peft's LoRA layers, in the forward and in the merge alike.

peft (0.21) looks a variant up by fields of LoraConfig, so ours comes in by layers of its own that peft is told to make
(`_register_custom_module`): they are peft's layers in all but the choice of the variant. Saving, loading, several
adapters and merging are peft's.

The mask of a linear is taken from its weight when its first adapter comes (a bit for each weight, 1/16 of a 16-bit
base), because ZeRO-3 has the weights elsewhere later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear, LoraLayer, LoraVariant
from peft.utils.integrations import gather_params_ctx
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_dist.config.experiment import Run
from lora_dist.errors import ModelError
from lora_dist.models.loading import empty_model
from lora_dist.models.masked_update import masked_update, masked_weights
from lora_dist.models.masks import pack_bits, plain_weight
from lora_dist.models.stored import StoredWeights

_REMEMBERED = "_lora_dist_kept_bits"
_LEAST_ZEROS = 0.01


def keep_zeros(config: LoraConfig) -> LoraConfig:
    """`config`, so that the adapters made by it leave the zeros of their base."""
    config._lora_dist_keeps_zeros = True
    return allow_kept_zeros(config)


def allow_kept_zeros(config: LoraConfig) -> LoraConfig:
    """`config`, so that others with kept zeros can come to the same base later."""
    from bitsandbytes.nn import Linear4bit  # importing it opens the CUDA device

    config._register_custom_module({Linear4bit: _linear_4bit(), nn.Linear: SparseLinear, Conv1D: SparseLinear})
    return config


def does_keep_zeros(config: Any) -> bool:
    """Whether `keep_zeros` was called on it."""
    return getattr(config, "_lora_dist_keeps_zeros", False)


class _ChoosesVariant:
    """A LoRA layer of peft that takes our variant where the config asks for it."""

    def resolve_lora_variant(self, *, config: LoraConfig, **kwargs: Any) -> LoraVariant | None:
        return SparseVariant() if does_keep_zeros(config) else super().resolve_lora_variant(config=config, **kwargs)


class SparseLinear(_ChoosesVariant, Linear):
    """peft's LoRA on a linear (or GPT-2's Conv1D)."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> None:
        inner = base_layer.get_base_layer() if hasattr(base_layer, "get_base_layer") else base_layer
        config.fan_in_fan_out = isinstance(inner, Conv1D)
        super().__init__(
            base_layer, adapter_name, config=config, is_target_conv_1d_layer=config.fan_in_fan_out, **kwargs
        )


def _linear_4bit() -> type[nn.Module]:
    from peft.tuners.lora.bnb import Linear4bit

    return type("SparseLinear4bit", (_ChoosesVariant, Linear4bit), {})


class SparseVariant(LoraVariant):
    """The update masked by the base's zeros."""

    def supports_lora_conversion(self) -> bool:
        """A masked product is not of low rank."""
        return False

    @staticmethod
    def init(module: LoraLayer, **_: Any) -> None:
        """Take the mask [outputs, inputs] from the base's weight, if no adapter before has."""
        if hasattr(module, "kept_bits"):
            return
        base = module.get_base_layer()
        bits = getattr(base, _REMEMBERED, None)
        if bits is None:
            with gather_params_ctx(base.weight):
                weight = plain_weight(base)
                bits = pack_bits((weight.T if module.fan_in_fan_out else weight) != 0)
        module.kept_bits = bits  # no buffer: DDP would broadcast it before every forward pass

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """`result`, what the base gives, and the masked update of `x`."""
        x = module.lora_dropout[active_adapter](x)
        a_KC, b_RK = (_whole(module, part[active_adapter].weight) for part in (module.lora_A, module.lora_B))
        return result + masked_update(x, a_KC, b_RK, _bits_on(module, x.device), module.scaling[active_adapter])

    @staticmethod
    def merge_safe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The merged weight."""
        return orig_weight + _delta(module, active_adapter).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> None:
        """Merge in place."""
        orig_weight.data += _delta(module, active_adapter).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module: LoraLayer, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight without the update."""
        return orig_weight - _delta(module, active_adapter).to(orig_weight.dtype)


def _delta(module: LoraLayer, adapter: str) -> Tensor:
    """The masked update as the base holds its weights."""
    a_KC, b_RK = module.lora_A[adapter].weight.data.float(), module.lora_B[adapter].weight.data.float()
    delta_RC = masked_weights(a_KC, b_RK, _bits_on(module, a_KC.device), module.scaling[adapter])
    return delta_RC.T if module.fan_in_fan_out else delta_RC


def _bits_on(module: LoraLayer, device: torch.device) -> Tensor:
    if module.kept_bits.device != device:
        module.kept_bits = module.kept_bits.to(device)
    return module.kept_bits


def _whole(module: nn.Module, weight: nn.Parameter) -> Tensor:
    """A weight of a submodule that is not called by itself: ZeRO-3 has to be told that `module` needs it."""
    if hasattr(weight, "ds_id") and not any(known is weight for known in module.ds_external_parameters()):
        from deepspeed.runtime.zero import register_external_parameter

        register_external_parameter(module, weight)
        weight.all_gather()  # this pass through the module has begun without it
    return weight


def recall_zeros(model: PreTrainedModel, run: Run, pruned: Path | None) -> None:
    """Give the 4-bit linears of a run that keeps zeros those of the weights that were quantised.

    NF4 rounds small weights to zero, too, and a merge goes into the 16-bit weights.

    Args:
        pruned: the folder of weights that were quantised, instead of the source's.
    Raises:
        ModelError: the weights do not go with the model.
    """
    if run.method.kind != "qlora" or not run.method.preserve_sparsity:
        return
    section = run.model if pruned is None else run.model.at(pruned)
    stored = StoredWeights.of_source(section)
    names = stored.names_for(empty_model(section))
    for name, module in model.named_modules():
        if getattr(getattr(module, "weight", None), "quant_state", None) is not None:
            setattr(module, _REMEMBERED, pack_bits(stored.read(names[f"{name}.weight"]) != 0).to(module.weight.device))


def refuse_dense(model: nn.Module) -> None:
    """Make sure that there are zeros to keep.

    Raises:
        ModelError: hardly any weight under the adapters is zero: the mask would cost its time for nothing.
    """
    layers = [module for module in model.modules() if hasattr(module, "kept_bits")]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    kept = sum(int(_ones(layer.kept_bits)) for layer in layers)
    if weights and 1 - kept / weights < _LEAST_ZEROS:
        raise ModelError(
            key="method.preserve_sparsity",
            problem=f"{1 - kept / weights:.2%} of the weights under the adapters are zero: there is nothing to keep",
            fix="set it to false, or give a pruned base (prune: {...}, or a model that is)",
        )


def _ones(bits: Tensor) -> Tensor:
    """How many bits are set."""
    counts = torch.tensor([number.bit_count() for number in range(256)], dtype=torch.int64, device=bits.device)
    return counts[bits.long()].sum()
