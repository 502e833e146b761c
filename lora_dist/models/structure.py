"""What a decoder is made of: its blocks, its linears, its final norm and its head. Nothing here needs weights."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_dist.errors import ModelError


def decoder_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder's list of blocks and its dotted name: the longest ModuleList of equal classes.

    Raises:
        ModelError: there is none.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    outermost = [
        (name, module) for name, module in lists if not any(name.startswith(f"{outer}.") for outer, _ in lists)
    ]
    if not outermost:
        raise ModelError(
            key="model.path",
            problem=f"{type(model).__name__} has no list of decoder blocks",
            fix="use method.kind lora or full for this model",
        )
    return max(outermost, key=lambda found: len(found[1]))


def causal_lm(model: nn.Module) -> nn.Module:
    """The transformers causal LM inside a PEFT wrapper, or `model` itself. Injected adapters stay active in it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def linear_names(model: PreTrainedModel) -> list[str]:
    """Dotted names of the linears that an adapter can go on: all but the output head."""
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]


def final_norm(model: PreTrainedModel) -> nn.Module | None:
    """The norm between the last block and the head: beside the blocks, with one-dimensional weights only."""
    blocks_name, _ = decoder_blocks(model)
    decoder = model.get_submodule(blocks_name.rpartition(".")[0])
    candidates = [
        child
        for name, child in decoder.named_children()
        if "emb" not in name and (own := list(child.parameters())) and all(weight.dim() == 1 for weight in own)
    ]
    return candidates[-1] if candidates else None
