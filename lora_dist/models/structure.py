"""What a model is made of: its blocks, its linears, its final norm and its head. Nothing here needs weights."""

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


def is_classifier(model: nn.Module) -> bool:
    """Whether the model ends in classes, and not in tokens."""
    return type(causal_lm(model)).__name__.endswith("ForSequenceClassification")


def head_names(model: PreTrainedModel) -> list[str]:
    """The dotted names of the modules that make the output: that of a language model, or of a classifier all modules
    outside the pretrained model that have weights (score; classifier; pre_classifier and classifier)."""
    if is_classifier(model):
        outside = [(name, child) for name, child in model.named_children() if name != model.base_model_prefix]
        return [name for name, child in outside if next(child.parameters(), None) is not None]
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if module is head][:1]


def linear_names(model: PreTrainedModel) -> list[str]:
    """Dotted names of the linears that an adapter can go on: all but those of the head."""
    heads = head_names(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not any(is_in(name, head) for head in heads)
    ]


def is_in(name: str, outer: str) -> bool:
    """Whether the module `name` is `outer`, or a part of it."""
    return name == outer or name.startswith(f"{outer}.")


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
