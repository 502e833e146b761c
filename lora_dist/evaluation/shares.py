"""Which rank measures which batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from lora_dist.team import Team

B = TypeVar("B")


def deal(batches: Sequence[B], team: Team | None) -> Iterator[tuple[Sequence[B], Sequence[B]]]:
    """Turn by turn: this rank's batch (none, when there are not enough for all in the last turn), and all of the turn.

    Every rank sees the same number of turns, so that they can speak to each other after each.
    """
    rank, size = (team.world.rank, team.world.size) if team else (0, 1)
    for start in range(0, len(batches), size):
        turn = batches[start : start + size]
        yield turn[rank : rank + 1], turn
