"""A model without its weights, that can run all the same: parts of it get weights for as long as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_dist.config.sections import ModelSection
from lora_dist.models.loading import untrained_model
from lora_dist.models.sources import Report


def skeleton(section: ModelSection, dtype: torch.dtype | None = None, report: Report | None = None) -> PreTrainedModel:
    """The model in evaluation mode with its parameters on the meta device; its buffers (rotary tables) are real.

    Raises:
        ModelError: the model is not there, is not a causal language model, or cannot have this attention.
    """
    options = {} if dtype is None else {"dtype": dtype}
    model = untrained_model(section, init_empty_weights(include_buffers=False), report, **options)
    model.tie_weights()  # tied ones were parted when each was put on the meta device
    return model.eval().requires_grad_(False)


def put_weights(module: nn.Module, weights: Iterator[tuple[str, Tensor]], device: torch.device) -> None:
    """Give parameters or buffers of `module`, by their names in it, values on `device`; buffers follow."""
    for name, value in weights:
        set_module_tensor_to_device(module, name, device, value=value, dtype=value.dtype)
    for name, buffer in module.named_buffers():
        if buffer.device != device:
            set_module_tensor_to_device(module, name, device, value=buffer)


def drop_weights(module: nn.Module) -> None:
    """Put the parameters of `module` back on the meta device."""
    for name, parameter in list(module.named_parameters()):
        if parameter.device.type != "meta":
            set_module_tensor_to_device(module, name, "meta")


def put_stand_ins(module: nn.Module) -> None:
    """Give every parameter zeros of its shape that take no memory: enough to see how modules call each other."""
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        outer, _, last = name.rpartition(".")
        zeros = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
        module.get_submodule(outer)._parameters[last] = nn.Parameter(zeros, requires_grad=False)


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """`module.forward` is another one inside the block. Accelerate keeps one on the instance: that comes back too."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
