"""Ranks: who this process is among how many, and what they tell each other. The only reader of RANK and the like."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_dist.errors import ConfigError

Strategy = Literal["plain", "ddp", "zero1", "zero2", "zero3", "fsdp"]


@dataclass(frozen=True)
class World:
    """The place of this process in its job, and how the job's ranks share the training."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    strategy: Strategy = "plain"

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files and draws the progress."""
        return self.rank == 0


def current_world(variables: Mapping[str, str] = os.environ) -> World:
    """The world that the launcher announced; one process when there is no launcher.

    Raises:
        ConfigError: a variable is no number, or the DeepSpeed config that it names cannot be read.
    """
    rank, size, local_rank = (
        _whole(variables, name, usual) for name, usual in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    return World(rank, size, local_rank, _strategy(variables, size))


def _whole(variables: Mapping[str, str], name: str, usual: int) -> int:
    try:
        return int(variables.get(name) or usual)
    except ValueError:
        raise ConfigError(
            key=name, problem=f"'{variables[name]}' is not a whole number", fix=f"unset {name}, or start a launcher"
        ) from None


def _strategy(variables: Mapping[str, str], size: int) -> Strategy:
    """What `accelerate launch` announced: DeepSpeed with the ZeRO stage of its config, FSDP, or neither."""
    if _is_on(variables, "ACCELERATE_USE_DEEPSPEED"):
        stage = _zero_stage(variables)
        return f"zero{stage}" if stage else "ddp"  # type: ignore[return-value]
    if _is_on(variables, "ACCELERATE_USE_FSDP"):
        return "fsdp"
    return "ddp" if size > 1 else "plain"


def _is_on(variables: Mapping[str, str], name: str) -> bool:
    return variables.get(name, "").lower() in ("1", "true", "yes", "on")


def _zero_stage(variables: Mapping[str, str]) -> int:
    name = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
    file = variables.get(name)
    if file in (None, "", "none"):
        return _whole(variables, "ACCELERATE_DEEPSPEED_ZERO_STAGE", 2)
    try:
        return int(json.loads(Path(file).read_text(encoding="utf-8")).get("zero_optimization", {}).get("stage", 0))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            key=name, problem=f"'{file}' is no DeepSpeed config: {error}", fix="correct deepspeed_config_file"
        ) from None
