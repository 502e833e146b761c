"""Prefix tuning (arXiv 2101.00190) through peft: trained keys and values that all tokens of a row attend to.

The prefix is a cache that the base finds filled: a row's first token has position V, and there are no logits for the
prefix, so that labels stay where they are.
"""

# Dims: V virtual tokens.

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model, initialize_kv_prefix_from_past_key_values
from torch import nn
from transformers import PreTrainedModel

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


def prefix_problems(model: PreTrainedModel, method: MethodSection) -> Iterator[Problem]:
    """Why a prefix cannot come before the rows of `model`, which is on the meta device: it is tried, without weights."""
    if getattr(model, "_is_stateful", False):
        problem = f"{type(model).__name__} keeps a state, not the keys and values that prefix tuning trains"
        yield Problem("method.kind", problem, _INSTEAD)
        return
    ids = torch.zeros((1, 2), dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            get_peft_model(copy.copy(model), prefix_config(method))(input_ids=ids, use_cache=False)
    except (ValueError, RuntimeError, TypeError, AttributeError, KeyError, IndexError) as error:
        said = " ".join(str(error).split())[:200]
        yield Problem("method.kind", f"a prefix does not fit {type(model).__name__}: {said}", _INSTEAD)


def start_prefix(model: PeftModel, rows: Iterable[Sequence[int]]) -> None:
    """Let an untrained prefix be what the base makes of the first V tokens of `rows` (of all, again and again if few).

    "Initializing the prefix with activations of real words significantly improves generation" (section 7.4 of the
    paper), and spares the base the random keys and values with which peft begins. One that is made by an MLP begins
    at random, as in the paper.

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
    with torch.no_grad():
        cache = base(input_ids=torch.tensor([tokens], device=base.device), use_cache=True).past_key_values
    base.train(training)
    pairs = [(keys, values) for keys, values, *_ in cache]
    initialize_kv_prefix_from_past_key_values(model, past_key_values=pairs)
