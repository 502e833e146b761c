"""The published SparseGPT loop, straight, for `prune_speed.py` to measure against; what it does is said there.

Written for this benchmark after the description of the algorithm (Frantar & Alistarh 2023, arXiv 2301.00774).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from stage_clock import Clock

BLOCK_SIZE, DAMPING = 128, 0.01


def run(arguments: argparse.Namespace, ids_NT: Any) -> dict[str, Any]:
    """The published loop over the decoder blocks of a whole model in memory; writes masks, returns what it took."""
    from transformers import LlamaForCausalLM

    from lora_dist.models.masks import FOLDER, write_masks

    model = LlamaForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    model = model.to(arguments.device).eval().requires_grad_(False)
    clock, kept, found = Clock(arguments.device), {}, {}
    hidden_NTH, named = inputs_of_first_block(model, ids_NT.to(arguments.device))
    output_NTH = torch.empty_like(hidden_NTH)
    cpu, started = time.process_time(), time.perf_counter()
    with torch.no_grad():
        for number, block in enumerate(model.model.layers):
            for name, linear, error in port_block(block, hidden_NTH, output_NTH, named, clock, arguments):
                name = f"model.layers.{number}.{name}.weight"
                kept[name] = linear.weight != 0
                found[name] = int((~kept[name]).sum()), error
            hidden_NTH, output_NTH = output_NTH, hidden_NTH
    overall, cpu = time.perf_counter() - started, time.process_time() - cpu
    (arguments.out / FOLDER).mkdir()
    write_masks(arguments.out / FOLDER / "all.safetensors", kept)
    return {"seconds": clock.seconds, "overall": overall, "cpu": cpu, "linears": found}


def inputs_of_first_block(model: Any, ids_NT: Any) -> tuple[Any, dict[str, Any]]:
    """What the first block is given for every sample, one at a time, and its other arguments."""
    seen: list[tuple[Any, dict[str, Any]]] = []

    class Caught(Exception):
        pass

    def catch(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((given[0], named))
        raise Caught

    hook = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for ids_T in ids_NT:
        try:
            model(input_ids=ids_T[None], use_cache=False)
        except Caught:
            continue
    hook.remove()
    return torch.cat([hidden for hidden, _ in seen]), seen[-1][1]


def port_block(block: Any, hidden_NTH: Any, output_NTH: Any, named: dict[str, Any], clock: Clock, arguments: Any):
    """Hessians by a full pass, each matrix in turn, a full pass with the pruned weights."""
    linears = {name: module for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
    hessians = {
        name: torch.zeros(module.in_features, module.in_features, device=hidden_NTH.device)
        for name, module in linears.items()
    }
    counts: Counter[str] = Counter()

    def listener(name: str) -> Callable[..., None]:
        def listen(_: Any, given: tuple[Any, ...], __: Any) -> None:
            with clock("hessians"):
                x_CT = given[0].reshape(-1, given[0].shape[-1]).t().float()
                hessians[name] *= counts[name] / (counts[name] + 1)  # the mean over samples, as they come
                counts[name] += 1
                x_CT = x_CT * (2 / counts[name]) ** 0.5
                hessians[name] += x_CT @ x_CT.t()

        return listen

    def forward() -> None:
        with clock("forward"):
            for index in range(len(hidden_NTH)):
                output_NTH[index] = block(hidden_NTH[index : index + 1], **named)[0]

    hooks = [module.register_forward_hook(listener(name)) for name, module in linears.items()]
    forward()
    for hook in hooks:
        hook.remove()
    for name, linear in linears.items():
        yield name, linear, port_matrix(linear, hessians.pop(name), clock, arguments)
    forward()


def port_matrix(linear: Any, hessian_CC: Any, clock: Clock, arguments: argparse.Namespace) -> float:
    """One matrix pruned in place; returns sum e^2."""
    weight_RC = linear.weight.detach().clone().float()
    with clock("factor"):
        dead_C = hessian_CC.diagonal() == 0
        hessian_CC.diagonal()[dead_C] = 1
        weight_RC[:, dead_C] = 0
        hessian_CC.diagonal().add_(DAMPING * hessian_CC.diagonal().mean())
        inverse_CC = torch.cholesky_inverse(torch.linalg.cholesky(hessian_CC))
        upper_CC = torch.linalg.cholesky(inverse_CC, upper=True)
    total = 0.0
    with clock("solve"):
        for start in range(0, weight_RC.shape[1], BLOCK_SIZE):
            stop = min(start + BLOCK_SIZE, weight_RC.shape[1])
            part_RB, upper_BB = weight_RC[:, start:stop].clone(), upper_CC[start:stop, start:stop]
            errors_RB, error = port_columns(part_RB, upper_BB, arguments)
            weight_RC[:, start:stop] = part_RB
            weight_RC[:, stop:] -= errors_RB @ upper_CC[start:stop, stop:]
            total += error
    linear.weight.data = weight_RC.to(torch.bfloat16).to(linear.weight.dtype)
    return total


def port_columns(part_RB: Any, upper_BB: Any, arguments: argparse.Namespace) -> tuple[Any, float]:
    """A block of columns pruned in place, one after the other; returns E and sum e^2."""
    pattern = [int(word) for word in arguments.pattern.split(":")] if arguments.pattern else None
    errors_RB, losses_RB = torch.zeros_like(part_RB), torch.zeros_like(part_RB)
    gone_RB = torch.zeros_like(part_RB, dtype=torch.bool)
    if pattern is None:
        scores_RB = part_RB**2 / upper_BB.diagonal() ** 2
        gone_RB = scores_RB < scores_RB.flatten().sort()[0][int(scores_RB.numel() * arguments.sparsity)]
    for column in range(part_RB.shape[1]):
        if pattern is not None and column % pattern[1] == 0:
            here = slice(column, column + pattern[1])
            scores_RM = part_RB[:, here] ** 2 / upper_BB.diagonal()[here] ** 2
            gone_RB[:, here].scatter_(1, scores_RM.topk(pattern[0], dim=1, largest=False)[1], value=True)
        old_R, diagonal = part_RB[:, column].clone(), upper_BB[column, column]
        new_R = old_R.clone()
        new_R[gone_RB[:, column]] = 0
        error_R = (old_R - new_R) / diagonal
        losses_RB[:, column] = error_R**2
        part_RB[:, column:] -= error_R[:, None] @ upper_BB[column, column:][None]
        part_RB[:, column] = new_R
        errors_RB[:, column] = error_R
    return errors_RB, float(losses_RB.sum(dtype=torch.float64))
