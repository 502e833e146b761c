"""Which methods go with which way of sharing the training out over ranks."""

from __future__ import annotations

from collections.abc import Iterator

from lora_dist.config.classification import TASK as CLASSIFICATION
from lora_dist.config.sections import MethodKind, Strategy, Task
from lora_dist.errors import Problem


def strategy_problems(
    kind: MethodKind, strategy: Strategy, task: Task = "instruction", *, validates: bool = False
) -> Iterator[Problem]:
    """Why `kind` cannot be trained for `task` under `strategy`, with what can.

    Args:
        validates: the validation loss is measured while training.
    """
    if validates and strategy == "zero3":
        yield Problem(
            "train.early_stopping_patience",
            "the validation loss cannot be measured under ZeRO-3, where no rank has the whole model while it trains",
            "use launch.config=zero2 or ddp, one GPU, or set it and train.validation_steps to null",
        )
    if strategy == "fsdp":
        yield Problem(
            "launch.config",
            "FSDP is not supported: its sharded checkpoints are not sealed and resumed here",
            "use ddp, zero2 or zero3 (for qlora: ddp or zero2)",
        )
    elif task == CLASSIFICATION and strategy.startswith("zero"):
        yield Problem(
            "launch.config",
            f"ZeRO is not there for {CLASSIFICATION}",
            "use ddp, or one process per run",
        )
    elif kind == "qlora" and strategy == "zero3":
        yield Problem(
            "method.kind",
            "qlora cannot go under ZeRO-3, which does not share 4-bit weights out: every GPU would hold all of them",
            "use launch.config=ddp or zero2, one GPU, or method.kind=lora under zero3",
        )
    elif kind == "prefix" and strategy == "zero3":
        yield Problem(
            "method.kind",
            "prefix cannot go under ZeRO-3: peft reads the prefix of one rank when it saves, and that is a share of it",
            "use launch.config=ddp or zero2, one GPU, or method.kind=lora under zero3",
        )
