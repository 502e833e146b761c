"""Who works on one matrix together: the threads of this process, and the other ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import torch
from torch import Tensor

from lora_dist.models.device import one_thread
from lora_dist.team import Team

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """One thread of one process; others know more of them. Item n of what is dealt in turns is rank n % size's."""

    rank, size, threads = 0, 1, 1

    def side_by_side(self, action: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`action` of each item, as many at a time as there are threads."""
        return [action(item) for item in items]

    def meanwhile(self, action: Callable[[], R]) -> Callable[[], R]:
        """Begin something that waits for other ranks; what is returned gives its result, and until it has been called
        nothing else may be said to them."""
        result = action()
        return lambda: result

    def add_up(self, tensor: Tensor) -> None:
        """Put the sum of all ranks' tensors in the place of each."""

    def copy_from(self, tensor: Tensor, rank: int) -> None:
        """Put one rank's tensor in the place of every rank's."""


ALONE = Crew()


class TeamCrew(Crew):
    """The ranks of a team, and as many threads of each as all of them have. Every rank calls every method but
    `side_by_side`; while it is entered, each thread computes alone.

    Bits depend on how many threads a product is shared between: one process with eight threads and eight ranks with one
    give the same.
    """

    def __init__(self, team: Team, device: torch.device) -> None:
        self.team, self.rank, self.size = team, team.world.rank, team.world.size
        self._has_threads = device.type == "cpu"  # an accelerator is kept busy by one

    def __enter__(self) -> TeamCrew:
        threads = torch.get_num_threads() if self._has_threads else 1
        self.threads = -int(self.team.highest(-threads))  # the fewest of all ranks: they keep step
        self._stack = ExitStack()
        self._pool = self._stack.enter_context(ThreadPoolExecutor(self.threads))
        self._listener = self._stack.enter_context(ThreadPoolExecutor(1))
        self._stack.enter_context(one_thread())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def side_by_side(self, action: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """See `Crew.side_by_side`."""
        if self.threads == 1 or len(items) < 2:
            return super().side_by_side(action, items)
        return list(self._pool.map(action, items))

    def meanwhile(self, action: Callable[[], R]) -> Callable[[], R]:
        """See `Crew.meanwhile`."""
        return super().meanwhile(action) if self.size == 1 else self._listener.submit(action).result

    def add_up(self, tensor: Tensor) -> None:
        """See `Crew.add_up`."""
        self.team.add_up(tensor)

    def copy_from(self, tensor: Tensor, rank: int) -> None:
        """See `Crew.copy_from`; as bytes, since not every backend knows every dtype."""
        self.team.copy_from(tensor.view(torch.uint8), rank)


def deal(costs: Sequence[float], size: int) -> list[int]:
    """Whose each piece of work is: the largest first, each to whom has the least so far; the same answer everywhere."""
    load, owners = [0.0] * size, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = load.index(min(load))
        load[owners[index]] += costs[index]
    return owners


def spans(size: int, width: int) -> list[slice]:
    """`size` columns or rows in pieces of `width`, the last one shorter: what is worked on together."""
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]
