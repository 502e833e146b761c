"""How a model calls its decoder blocks, found by watching its own forward: so no model needs code of its own here."""

# Dims: B samples of a forward pass, T tokens, H hidden size.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lora_dist.errors import ModelError
from lora_dist.models.skeleton import forward_replaced
from lora_dist.models.structure import decoder_blocks

_HIDDEN = "hidden_states"


@dataclass(frozen=True)
class Call:
    """How one block is called, its hidden states apart: masks, rotary tables and the like are its own."""

    arguments: tuple[Any, ...]
    named: Mapping[str, Any]

    def run(self, block: nn.Module, hidden_BTH: Tensor) -> Tensor:
        """What the block makes of the hidden states."""
        output = block(hidden_BTH, *self.arguments, **self.named)
        return output[0] if isinstance(output, tuple) else output


class _Arrived(Exception):
    """The last block has been called; what comes after it is not needed."""


class _NotAChain(Exception):
    """A block was not given what the block before it put out."""


def block_calls(model: PreTrainedModel, ids_BT: Tensor) -> tuple[Tensor, list[Call]]:
    """The hidden states that the first block is given for these ids, and how each block is called.

    The model's own forward runs, with stand-ins for the blocks that pass on what they get; only what comes before the
    blocks needs weights.

    Raises:
        ModelError: its blocks are no chain.
    """
    for as_tuple in (False, True):  # transformers' blocks return a tensor; older code takes the first of a tuple
        try:
            return _watch(model, ids_BT, as_tuple=as_tuple)
        except torch.OutOfMemoryError:
            raise
        except (_NotAChain, IndexError, TypeError, ValueError, RuntimeError) as error:
            why = error
    raise ModelError(
        key="model.path",
        problem=f"the blocks of {type(model).__name__} do not form a chain: {' '.join(str(why).split())[:200]}",
        fix="set prune to null for this model",
    ) from why


def _watch(model: PreTrainedModel, ids_BT: Tensor, *, as_tuple: bool) -> tuple[Tensor, list[Call]]:
    _, blocks = decoder_blocks(model)
    seen: list[Tensor] = []
    calls: list[Call] = []

    def stand_in(number: int) -> Callable[..., Any]:
        def forward(*arguments: Any, **named: Any) -> Any:
            hidden_BTH = named.pop(_HIDDEN) if _HIDDEN in named else arguments[0]
            if len(calls) != number or (seen and hidden_BTH is not seen[-1]):
                raise _NotAChain(f"block {number} is not given what block {number - 1} puts out")
            seen.append(hidden_BTH)
            calls.append(Call(arguments[1:] if arguments else (), named))
            if number == len(blocks) - 1:
                raise _Arrived
            return (hidden_BTH,) if as_tuple else hidden_BTH

        return forward

    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            stack.enter_context(forward_replaced(block, stand_in(number)))
        try:
            model(input_ids=ids_BT, use_cache=False)
        except _Arrived:
            return seen[0], calls
    raise _NotAChain("the last block was never called")


Listen = Callable[[str, Tensor], None]


@contextmanager
def inputs_heard(linears: Mapping[str, nn.Module], listen: Listen) -> Iterator[None]:
    """`listen(name, input)` hears what each of the linears is given."""
    with ExitStack() as stack:
        for name, linear in linears.items():
            hook = linear.register_forward_pre_hook(lambda _, given, name=name: listen(name, given[0]))
            stack.callback(hook.remove)
        yield


Groups = tuple[tuple[str, ...], ...]
"""The linears of a block by what they see: those that are given one and the same input (q/k/v, gate/up) together. The
first of each group stands for it, and the groups are in the order in which those are called."""


def input_groups(block: nn.Module, call: Call, hidden_BTH: Tensor, linears: Mapping[str, nn.Module]) -> Groups:
    """Which of the linears see the same tensor, by running the block once.

    Raises:
        ModelError: one of them is not called at all, or several times.
    """
    given: list[tuple[Tensor, list[str]]] = []  # holding on to the tensors keeps their identities apart
    order: list[str] = []

    def listen(name: str, x: Tensor) -> None:
        order.append(name)
        for tensor, names in given:
            if tensor is x:
                names.append(name)
                return
        given.append((x, [name]))

    with inputs_heard(linears, listen):
        call.run(block, hidden_BTH)
    _refuse_uncounted(order, list(linears))
    return tuple(tuple(names) for _, names in given)


def _refuse_uncounted(order: Sequence[str], names: Sequence[str]) -> None:
    for name in names:
        times = order.count(name)
        if times != 1:
            raise ModelError(
                key="model.path",
                problem=f"the linear {name} is called {times} times when its block runs, and only once is understood",
                fix=f"add it to prune.skip: [{name}]",
            )
