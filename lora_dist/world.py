"""Ranks: who this process is among how many. The only reader of RANK, WORLD_SIZE and the like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from lora_dist.errors import ConfigError


@dataclass(frozen=True)
class World:
    """The place of this process in its job."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files and draws the progress."""
        return self.rank == 0


def current_world(variables: Mapping[str, str] = os.environ) -> World:
    """The world that the launcher announced; one process when there is no launcher.

    Raises:
        ConfigError: there are several ranks, which this version does not train on, or a variable is no number.
    """
    rank, size, local_rank = (
        _whole(variables, name, usual) for name, usual in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if size > 1:
        raise ConfigError(
            key="WORLD_SIZE",
            problem=f"{size} ranks were launched, and this version trains on one",
            fix="start it without a launcher, or with --num_processes 1",
        )
    return World(rank, size, local_rank)


def _whole(variables: Mapping[str, str], name: str, usual: int) -> int:
    try:
        return int(variables.get(name) or usual)
    except ValueError:
        raise ConfigError(
            key=name, problem=f"'{variables[name]}' is not a whole number", fix=f"unset {name}, or start a launcher"
        ) from None
