"""Prefix tuning (arXiv 2101.00190) through peft: trained keys and values that all tokens of a row attend to.

The prefix is a cache that the base finds filled: a row's first token has position V, and there are no logits for the
prefix, so that labels stay where they are.
"""

# Dims: V virtual tokens.

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model, initialize_kv_prefix_from_past_key_values
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from lora_dist.config.sections import MethodSection
from lora_dist.errors import Problem
from lora_dist.models.structure import causal_lm

_INSTEAD = "use method.kind lora or ia3 for this model"


def prefix_config(method: MethodSection) -> PrefixTuningConfig:
    """peft's config for a `prefix` method."""
    return PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=method.virtual_tokens, prefix_projection=method.prefix_projection
    )


def virtual_tokens(model: nn.Module) -> int:
    """Positions of the context that a prefix on `model` takes; 0 where there is none."""
    active = getattr(model, "active_peft_config", None)
    return getattr(active, "num_virtual_tokens", 0)


def room_behind_prefix(method: MethodSection, longest: int, context: int | None) -> Iterator[Problem]:
    """Whether a row of `longest` tokens fits behind the prefix into a context of so many (None: any number does)."""
    room = None if context is None else context - method.virtual_tokens
    if method.kind == "prefix" and room is not None and longest > room:
        fixes = [f"at most {context - longest}"] if longest < context else []
        fixes += [f"data.max_length={room}"] if room > 1 else []
        yield Problem(
            "method.virtual_tokens",
            f"{method.virtual_tokens} before the longest row ({longest} tokens) are more than the model's context of "
            f"{context}",
            f"use {' or '.join(fixes) or 'fewer, and shorter rows'}",
        )


def prefix_problems(model: PreTrainedModel, method: MethodSection) -> Iterator[Problem]:
    """Why a prefix does not go with `model`, which is on the meta device: it is tried there, without weights."""
    if getattr(model, "_is_stateful", False):
        problem = f"{type(model).__name__} keeps a state, not the keys and values that prefix tuning trains"
        yield Problem("method.kind", problem, _INSTEAD)
        return
    if _flaw_of(lambda: model) is not None:  # some kernels have no meta device: nothing is known then
        return
    flaw = _flaw_of(lambda: get_peft_model(copy.copy(model), prefix_config(method)))
    if flaw is not None:
        yield Problem("method.kind", f"a prefix does not fit {type(model).__name__}: {flaw}", _INSTEAD)


def _flaw_of(make: Callable[[], nn.Module]) -> str | None:
    """Why the model that `make` makes cannot read two tokens on the meta device; None if it can."""
    try:
        with torch.no_grad(), torch.device("meta"):
            make()(input_ids=torch.zeros((1, 2), dtype=torch.long), use_cache=False)
    except (ValueError, RuntimeError, TypeError, AttributeError, KeyError, IndexError) as error:
        return " ".join(str(error).split())[:200]
    return None


def start_prefix(model: PeftModel, rows: Iterable[Sequence[int]]) -> None:
    """Let an untrained prefix be what the base makes of the first V tokens of `rows` (of all, again and again if few).

    The paper (section 7.4) finds real words better than random keys and values, with which peft begins, where there is
    little data. (On a 6.5M-parameter Llama and 300 problems it was the same: perplexity 8.96 and 8.92 after training,
    one seed, 2026-11-27.) A prefix that is made by an MLP begins at random, as in the paper.

    Args:
        rows: token ids, the same on every rank.
    """
    config = model.active_peft_config
    if config.prefix_projection:
        return
    count = config.num_virtual_tokens
    base = causal_lm(model)
    tokens = list(itertools.islice(itertools.chain.from_iterable(itertools.cycle(rows)), count))
    training = base.training
    base.eval()
    cache = DynamicCache()  # a model's own keeps no more than its sliding window
    with torch.no_grad():
        base(input_ids=torch.tensor([tokens], device=base.device), past_key_values=cache, use_cache=True)
    base.train(training)
    pairs = [(keys, values) for keys, values, *_ in cache]
    initialize_kv_prefix_from_past_key_values(model, past_key_values=pairs)


_MAKER = "prefix_maker.safetensors"


def _maker(model: nn.Module) -> nn.Module | None:
    """The embedding and the MLP that a prefix in training is made by; None where the prefix itself is trained."""
    config = getattr(model, "active_peft_config", None)
    if not getattr(config, "prefix_projection", False) or config.inference_mode:
        return None
    return model.prompt_encoder[model.active_adapter]


def save_prefix_maker(model: nn.Module, checkpoint: Path) -> None:
    """Put what makes the prefix of `model` into a checkpoint, if there is such a thing: peft saves the prefix alone."""
    maker = _maker(model)
    if maker is not None:
        save_file({name: tensor.cpu().contiguous() for name, tensor in maker.state_dict().items()}, checkpoint / _MAKER)


def load_prefix_maker(model: nn.Module, checkpoint: Path) -> bool:
    """Take it from a checkpoint again; false where `model` has none, and is as peft saved it."""
    maker = _maker(model)
    if maker is not None:
        maker.load_state_dict(load_file(checkpoint / _MAKER, device=str(model.device)))
    return maker is not None
