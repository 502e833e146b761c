"""What the estimate decides: the launch config of `auto`, and whether QLoRA has to take LoRA's place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lora_dist.config.sections import MethodSection, Strategy, Task
from lora_dist.errors import Problem
from lora_dist.planning.memory import GIB, Bytes, Setting, estimate
from lora_dist.planning.shape import ModelShape
from lora_dist.planning.strategies import strategy_problems


@dataclass(frozen=True)
class Hardware:
    """What a run may use."""

    gpus: int
    """Per machine; 0 is a CPU."""
    gpu_bytes: int | None = None
    """Memory of the smallest of them; None when it is not known."""
    nodes: int = 1


@dataclass(frozen=True)
class Choice:
    """A launch config, and why this one."""

    config: str
    why: str


LADDER = ("ddp", "zero2", "zero3", "zero2_offload", "zero3_offload")
"""From the fastest to the one that takes the least GPU memory."""


def choose_launch_config(
    shape: ModelShape | None,
    setting: Setting,
    hardware: Hardware,
    *,
    task: Task = "instruction",
    validates: bool = False,
) -> Choice:
    """The fastest shipped launch config under which a run fits, by the estimate; the last resort when none does.

    Args:
        task, validates: what else a strategy may not be able to do; where none is, the run's preflight says why.
    """
    if hardware.gpus == 0:
        return Choice("cpu_ddp", "this machine shows no GPU")
    ranks = hardware.gpus * hardware.nodes
    if setting.method.kind in ("base", "qlora"):
        ladder = ["zero2"] if hardware.nodes > 1 else ["ddp" if ranks > 1 else "single_gpu"]
    elif hardware.nodes > 1:
        ladder = ["zero2", "zero3"]
    elif ranks == 1 and setting.method.kind == "lora" and setting.method.fallback == "qlora":
        ladder = ["single_gpu"]  # where QLoRA takes over
    elif ranks == 1:
        ladder = ["single_gpu", "zero2_offload", "zero3_offload"]
    else:
        ladder = list(LADDER)
    ladder = [
        name
        for name in ladder
        if not any(strategy_problems(setting.method.kind, _strategy(name, ranks), task, validates=validates))
    ] or ladder
    prefix = "multinode_" if hardware.nodes > 1 else ""
    if shape is None or hardware.gpu_bytes is None:
        return Choice(prefix + ladder[0], "the model's shape or the GPUs' memory is not known")
    for name in ladder:
        needed = estimate(shape, under(name, setting, ranks)).total
        if needed <= hardware.gpu_bytes:
            return Choice(prefix + name, f"the first that fits: {_gib(needed)} of {_gib(hardware.gpu_bytes)} per GPU")
    return Choice(prefix + ladder[-1], f"nothing fits: {_gib(needed)} of {_gib(hardware.gpu_bytes)} per GPU")


def under(config: str, setting: Setting, ranks: int) -> Setting:
    """`setting` as it is under a shipped launch config."""
    name = config.removeprefix("multinode_").removeprefix("cpu_")
    return replace(setting, strategy=_strategy(name, ranks), offload=name.endswith("_offload"), world_size=ranks)


def _strategy(name: str, ranks: int) -> Strategy:
    return name.removesuffix("_offload") if name.startswith("zero") else "ddp" if ranks > 1 else "plain"


@dataclass(frozen=True)
class Fallback:
    """QLoRA in LoRA's place."""

    method: MethodSection
    why: str


def fallback_of(shape: ModelShape, setting: Setting, gpu_bytes: int) -> Fallback | None:
    """QLoRA, where LoRA on one GPU does not fit and `method.fallback` allows it; None without need, or without help.

    `fit_problems` says what is wrong where there is no help.
    """
    method = setting.method
    if method.kind != "lora" or estimate(shape, setting).total <= gpu_bytes or method.fallback == "error":
        return None
    instead = method.model_copy(update={"kind": "qlora"})
    if estimate(shape, replace(setting, method=instead)).total > gpu_bytes:
        return None
    needed = estimate(shape, setting).total
    return Fallback(
        instead,
        f"LoRA in 16 bit takes about {_gib(needed)} and this GPU has {_gib(gpu_bytes)}: QLoRA takes over "
        "(method.fallback=error refuses instead)",
    )


def fit_problems(shape: ModelShape, setting: Setting, gpu_bytes: int) -> Iterator[Problem]:
    """Why a LoRA run does not fit one GPU, by the estimate, neither as it is nor as QLoRA, and what would.

    Other methods have no substitute, and are left to try: an estimate is no reason to forbid what may work.
    """
    if setting.method.kind != "lora":
        return
    bytes_here = estimate(shape, setting)
    if bytes_here.total <= gpu_bytes or fallback_of(shape, setting, gpu_bytes) is not None:
        return
    yield Problem(
        "method.kind",
        f"{setting.method.kind} takes about {_gib(bytes_here.total)} ({_largest(bytes_here)}), and this GPU has "
        f"{_gib(gpu_bytes)}",
        f"use {'; or '.join(_remedies(shape, setting, gpu_bytes)) or 'a larger GPU, or several (launch.config=zero3)'}",
    )


def _remedies(shape: ModelShape, setting: Setting, gpu_bytes: int) -> Iterator[str]:
    """Single changes that would make it fit."""
    changes = {
        "train.gradient_checkpointing=true": replace(setting, checkpointing=True),
        "train.micro_batch_size=1": replace(setting, micro_batch_size=1),
        f"data.max_length={setting.length // 2}": replace(setting, length=setting.length // 2),
        "method.kind=qlora": replace(setting, method=setting.method.model_copy(update={"kind": "qlora"})),
        "train.gradient_checkpointing=true and train.micro_batch_size=1": replace(
            setting, checkpointing=True, micro_batch_size=1
        ),
    }
    found = [text for text, changed in changes.items() if estimate(shape, changed).total <= gpu_bytes]
    yield from found[:3]


def _largest(found: Bytes) -> str:
    terms = sorted(((size, name) for name, size in found.document().items() if name != "total"), reverse=True)
    return ", ".join(f"{name} {_gib(size)}" for size, name in terms[:2])


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
