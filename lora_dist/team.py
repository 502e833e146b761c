"""What the ranks of one job tell each other."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from lora_dist.errors import ConfigError, LoraDistError, WorkerCrashed
from lora_dist.world import World, is_launched, meeting_place

T = TypeVar("T")
_PATIENCE = timedelta(days=2)  # how long ranks wait for one that tokenises, hashes a checkpoint or is measured
_PR_SET_PDEATHSIG = 1
_ALONE = World()


def die_with_parent(what: signal.Signals = signal.SIGKILL) -> None:
    """Have Linux signal this process when the one that started it dies: no rank outlives its launcher."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, what)


class Team:
    """The ranks of one job talking to each other, on the CPU and apart from the trainer's own traffic.

    Alone, everything is answered at once. With several ranks every method has to be called by all of them.
    """

    def __init__(self, world: World = _ALONE, group: Any = None) -> None:
        self.world, self._group = world, group

    @classmethod
    def join(cls, world: World) -> Team:
        """Meet the other ranks; the trainer finds the process group that is made here, and uses it.

        Raises:
            ConfigError: the ranks cannot meet.
        """
        if world.size == 1:
            if is_launched():  # it can save and end by itself; several ranks might wait for each other
                die_with_parent(signal.SIGTERM)
            return cls(world)
        die_with_parent()
        os.environ.update(meeting_place())  # for all that looks there: torch, accelerate, DeepSpeed
        import torch
        from torch import distributed

        has_gpu = torch.cuda.is_available()
        if has_gpu:
            torch.cuda.set_device(world.local_rank)
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
            return cls(world, distributed.new_group(backend="gloo", timeout=_PATIENCE))
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                key="MASTER_ADDR",
                problem=f"the {world.size} ranks cannot meet: {' '.join(str(error).split())[:300]}",
                fix="start them with accelerate launch or torchrun, and check the address and the port",
            ) from error

    def first_does(self, action: Callable[[], T]) -> T:
        """Have rank 0 alone do something; every rank gets its result, or the error that it raised.

        Raises:
            WorkerCrashed: on the other ranks, for an error of rank 0 that is none of lora_dist's.
        """
        if self._group is None:
            return action()
        from torch import distributed

        told: list[Any] = [None]
        error: BaseException | None = None
        if self.world.is_first:
            try:
                told = [(True, action())]
            except BaseException as raised:  # noqa: BLE001 - raised again below, after the others have been told
                error = raised
                told = [(False, raised if isinstance(raised, LoraDistError) else WorkerCrashed(f"rank 0: {raised}"))]
        distributed.broadcast_object_list(told, src=0, group=self._group)
        if error is not None:
            raise error
        succeeded, result = told[0]
        if not succeeded:
            result.is_told_by_first = True
            raise result
        return result

    def highest(self, value: float) -> float:
        """The largest of all ranks' values."""
        if self._group is None:
            return value
        import torch
        from torch import distributed

        highest = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(highest, op=distributed.ReduceOp.MAX, group=self._group)
        return float(highest)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of the ranks."""
        if self._group is None:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.world.size
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def raise_together(self, error: Exception | None) -> None:
        """Raise on every rank when one of them has an error: its own on the rank that has one.

        Raises:
            WorkerCrashed: on the other ranks, for an error that is none of lora_dist's.
        """
        known = isinstance(error, LoraDistError) or error is None
        told = self.gather(error if known else WorkerCrashed(f"rank {self.world.rank}: {error}"))
        if error is not None:
            raise error
        for rank, other in enumerate(told):
            if other is not None:
                other.is_told_by_first, other.rank = told[0] is not None, rank
                raise other

    def add_up(self, tensor: Any, owner: int | None = None) -> None:
        """Put the sum of all ranks' tensors in its place: on every rank, or on `owner` (elsewhere it is then spent)."""
        if self._group is None:
            return
        from torch import distributed

        if owner is None:
            distributed.all_reduce(tensor, group=self._group_of(tensor))
        else:
            distributed.reduce(tensor, dst=owner, group=self._group_of(tensor))

    def copy_from(self, tensor: Any, owner: int) -> None:
        """Put `owner`'s tensor in the place of every rank's."""
        if self._group is None:
            return
        from torch import distributed

        distributed.broadcast(tensor, src=owner, group=self._group_of(tensor))

    def _group_of(self, tensor: Any) -> Any:
        """Tensors on an accelerator go over its own backend, which the default group has."""
        return self._group if tensor.device.type == "cpu" else None

    def told_by(self, owner: int, value: Any) -> Any:
        """`owner`'s value, on every rank."""
        if self._group is None:
            return value
        from torch import distributed

        told = [value]
        distributed.broadcast_object_list(told, src=owner, group=self._group)
        return told[0]

    def wait(self) -> None:
        """Go on only when every rank has come here."""
        self.gather(None)

    def leave(self) -> None:
        """Wait for the others, then part; from here on every rank is on its own."""
        if self._group is not None:
            from torch import distributed

            self.wait()
            distributed.destroy_process_group()
            self._group = None
