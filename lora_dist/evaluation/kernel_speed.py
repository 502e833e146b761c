"""2:4 kernels beside dense ones: the same linears of one live model packed, checked, and timed in turns.

What is checked, in this order; a mismatch is an error:

1. Every weight that was packed, through the kernel itself: multiplying the identity gives them back bit for bit.
2. Every packed linear on what it is given when rows are scored: each output is held to the product in float32.
3. The whole model: the mean NLL of the rows that are timed.
"""

# Dims: T tokens, R outputs, C inputs.

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from lora_dist.errors import ModelError
from lora_dist.evaluation.live_model import input_device
from lora_dist.evaluation.perplexity import Row, score_rows
from lora_dist.evaluation.sparse_kernels import KERNELS, Host, find_linears, host_of
from lora_dist.models.device import synchronize
from lora_dist.store.record import SparseKernels

Pack = Callable[[Tensor], Tensor]
"""A dense weight [R, C] to what `torch.nn.functional.linear` multiplies by."""

REPETITIONS = 5
"""Timed passes of each side, after one to warm up."""
MOST_TOKENS = 16 * 1024
"""Of the rows that are scored again and again."""
LAYER_EPSILONS = 2
"""An output may be this many epsilons of its dtype off the product in float32. Kernels add in float32 and round once
(half an epsilon); the rest is for those that add up parts in 16 bit."""
MODEL_EPSILONS = 2
"""The mean NLL may change by this many epsilons of the dtype, of it or of 1 nat if it is less."""
_CANCELLED = 1e-3
"""Outputs whose terms cancel are held to this share of |x||w|, which rounding in float32 stays far below."""
_IDENTITY_BYTES = 64 * 2**20
"""Of the identity that exist at once."""
_FIX = "leave it out (dense weights compute what is in the record), and report this with `pip list`"


def measure_sparse_kernels(
    model: nn.Module, rows: Sequence[Row], *, batch_size: int, host: Host | None = None, pack: Pack | None = None
) -> SparseKernels:
    """Pack the 2:4 linears of `model` for its device's kernels, check what they compute, time scoring with and without.

    The model is as before afterwards. Where nothing can be packed, or the library refuses, the part says why.

    Args:
        rows: of (input_ids, labels); the first of them are scored.
        host: the model's device, unless a test says otherwise.
        pack: likewise; of the kernel's own class otherwise.
    Raises:
        ModelError: packed weights compute something else than dense ones.
    """
    host = host or host_of(input_device(model))
    found = find_linears(model, host)
    packed: dict[str, nn.Parameter] = {}
    if found.convertible:
        try:
            for name, module in found.convertible.items():
                packed[name] = _pack(name, module.weight.detach(), pack or KERNELS[host.kernel].from_dense)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # such as a cuSPARSELt that is older than the device
            packed, found = {}, found.with_refused(f"{host.kernel} refuses: {' '.join(str(error).split())[:200]}")
    facts = {"linears": found.linears, "two_in_four": found.two_in_four, "reason": found.reason}
    if not packed:
        return SparseKernels(**facts, converted=0)
    measured = _measure(model, _first(rows), batch_size, found.convertible, packed)
    return SparseKernels(**facts, converted=len(packed), kernel=host.kernel, **measured)


def _first(rows: Sequence[Row]) -> list[Row]:
    """As many as have MOST_TOKENS together, and one at least."""
    chosen, tokens = [], 0
    for index in range(len(rows)):
        tokens += len(rows[index][0])
        if chosen and tokens > MOST_TOKENS:
            break
        chosen.append(rows[index])
    return chosen


def _pack(name: str, weight_RC: Tensor, pack: Pack) -> nn.Parameter:
    """The packed weight.

    Raises:
        ModelError: the kernel does not give the weights back.
        RuntimeError: the library refuses.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor is in prototype stage")
        packed_RC = pack(weight_RC.contiguous())
    columns = weight_RC.shape[1]
    step = max(16, _IDENTITY_BYTES // (columns * weight_RC.element_size()))
    wrong = 0
    for start in range(0, columns, step):
        some_c = torch.arange(start, min(start + step, columns), device=weight_RC.device)
        identity_cC = torch.zeros(len(some_c), columns, dtype=weight_RC.dtype, device=weight_RC.device)
        identity_cC[some_c - start, some_c] = 1
        wrong += int((weight_RC[:, some_c] != linear(identity_cC, packed_RC).T).sum())
    if wrong:
        raise _mismatch(f"{wrong:,} of {weight_RC.numel():,} weights of {name} come out changed")
    return nn.Parameter(packed_RC, requires_grad=False)


def _measure(
    model: nn.Module,
    rows: Sequence[Row],
    batch_size: int,
    modules: Mapping[str, nn.Linear],
    packed: Mapping[str, nn.Parameter],
) -> dict[str, float | int]:
    """Check and time; the fields of the record's part."""
    epsilon = torch.finfo(next(iter(modules.values())).weight.dtype).eps
    allowed = {"layer_tolerance": LAYER_EPSILONS * epsilon}
    layer_error = _check_layers(model, rows[:batch_size], modules, packed, allowed["layer_tolerance"])

    def score() -> tuple[float, float]:
        synchronize(input_device(model))
        started = time.perf_counter()
        scores = score_rows(model, rows, batch_size=batch_size)
        synchronize(input_device(model))
        return time.perf_counter() - started, scores.nll_sum / scores.scored_tokens

    def score_packed() -> tuple[float, float]:
        with _swapped(modules, packed):
            return score()

    (_, dense_nll), (_, sparse_nll) = score(), score_packed()  # which also warms up
    allowed["nll_tolerance"] = MODEL_EPSILONS * epsilon * max(1.0, dense_nll)
    if not abs(sparse_nll - dense_nll) <= allowed["nll_tolerance"]:
        raise _mismatch(
            f"the mean NLL is {sparse_nll:.5f} and not {dense_nll:.5f} ({allowed['nll_tolerance']:.2g} is allowed)"
        )
    seconds: dict[Callable, list[float]] = {score: [], score_packed: []}
    for repetition in range(REPETITIONS):
        for side in (score, score_packed) if repetition % 2 == 0 else (score_packed, score):
            seconds[side].append(side()[0])
    tokens = sum(len(ids) for ids, _ in rows)
    return {
        "tokens": tokens,
        "repetitions": REPETITIONS,
        "dense_tokens_per_second": tokens / statistics.median(seconds[score]),
        "sparse_tokens_per_second": tokens / statistics.median(seconds[score_packed]),
        "layer_error": layer_error,
        "nll_difference": sparse_nll - dense_nll,
        **allowed,
    }


def _check_layers(
    model: nn.Module,
    rows: Sequence[Row],
    modules: Mapping[str, nn.Linear],
    packed: Mapping[str, nn.Parameter],
    tolerance: float,
) -> float:
    """The largest relative error of an output of a packed linear, on what the linears are given by dense ones.

    Raises:
        ModelError: it is above the tolerance.
    """
    worst: dict[str, Tensor] = {}

    def compare(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
            found = _relative_error(inputs[0], module.weight, packed[name], module.bias)
            worst[name] = found if name not in worst else torch.maximum(worst[name], found)  # NaN stays

        return hook

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(compare(name)).remove)
        score_rows(model, rows, batch_size=len(rows))
    errors = {name: float(error) for name, error in worst.items()}
    for name, error in errors.items():
        if not error <= tolerance:
            raise _mismatch(f"an output of {name} is {error:.2g} off, relatively ({tolerance:.2g} is allowed)")
    return max(errors.values(), default=0.0)


def _relative_error(x: Tensor, weight_RC: Tensor, packed_RC: Tensor, bias_R: Tensor | None) -> Tensor:
    """The largest error of an output beside its product in float32, both as norms over the tokens; 0-dimensional."""
    x_TC, weight_RC = x.reshape(-1, x.shape[-1]).float(), weight_RC.float()
    found_TR = linear(x, packed_RC, bias_R).float().reshape(len(x_TC), -1)
    exact_TR = linear(x_TC, weight_RC, None if bias_R is None else bias_R.float())
    scale_R = exact_TR.norm(dim=0) + _CANCELLED * x_TC.norm() * weight_RC.norm(dim=1)
    return ((found_TR - exact_TR).norm(dim=0) / scale_R.clamp_min(torch.finfo(torch.float32).tiny)).max()


@contextmanager
def _swapped(modules: Mapping[str, nn.Linear], packed: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Packed weights in the place of the linears' own, which come back, also after an error."""
    dense = {name: module.weight for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.weight = packed[name]
        yield
    finally:
        for name, module in modules.items():
            module.weight = dense[name]


def _mismatch(problem: str) -> ModelError:
    return ModelError(key="--sparse-kernels", problem=f"2:4 kernels compute something else: {problem}", fix=_FIX)
