"""Ranks: who this process is among how many, and what they tell each other. The only reader of RANK and the like."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from lora_dist.config.sections import Strategy
from lora_dist.errors import ConfigError, LoraDistError, WorkerCrashed

T = TypeVar("T")
_PATIENCE = timedelta(days=2)  # how long ranks wait for one that tokenises, hashes a checkpoint or is measured
_PR_SET_PDEATHSIG = 1
_PORTS = range(20_000, 30_000)  # where the ranks of a job step meet, each step at its own


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


def refuse_ranks(variables: Mapping[str, str] = os.environ) -> None:
    """Refuse to be one of several ranks, for what starts its own.

    Raises:
        ConfigError: a launcher has started several of this process.
    """
    size = current_world(variables).size
    if size > 1:
        raise ConfigError(
            key="WORLD_SIZE",
            problem=f"{size} ranks were launched, and this command starts its own",
            fix="start it without a launcher (compare --launcher accelerate), or launch `lora_dist train`",
        )


def current_world(variables: Mapping[str, str] = os.environ) -> World:
    """The world that the launcher announced; one process when there is no launcher.

    Raises:
        ConfigError: a variable is no number or is missing, or the DeepSpeed config that it names cannot be read.
    """
    variables = {**variables, **_of_srun(variables)}
    rank, size, local_rank = (
        _whole(variables, name, usual) for name, usual in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in variables] if size > 1 else []
    if missing:
        raise ConfigError(
            key="WORLD_SIZE",
            problem=f"says {size} ranks, but {', '.join(missing)} not set",
            fix="start the ranks with accelerate launch, torchrun or srun, or unset WORLD_SIZE",
        )
    return World(rank, size, local_rank, _strategy(variables, size))


def _of_srun(variables: Mapping[str, str]) -> dict[str, str]:
    """What a launcher would have set, for the tasks of an `srun` of several (a batch script is no task of a step)."""
    size = variables.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in variables or "SLURM_PROCID" not in variables or not size.isdecimal() or int(size) < 2:
        return {}
    job, step = (int(variables.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return {
        "RANK": variables["SLURM_PROCID"],
        "WORLD_SIZE": size,
        "LOCAL_RANK": variables.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": variables.get("MASTER_ADDR") or _first_host(variables.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": variables.get("MASTER_PORT") or str(_PORTS[0] + (31 * job + step) % len(_PORTS)),
    }


def _first_host(nodes: str) -> str:
    """The first of SLURM's list of nodes, which has rank 0: gpu[03-05,9] begins with gpu03."""
    found = re.match(r"([^\[,]+)(?:\[([0-9]+))?", nodes)
    return found[1] + (found[2] or "") if found else "localhost"


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


def without_launcher(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that is to be on its own, though it is started by one of several ranks."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK")
    prefixes = ("MASTER_", "ACCELERATE_", "TORCHELASTIC_", "FSDP_", "ROLE_")
    return {name: value for name, value in variables.items() if name not in names and not name.startswith(prefixes)}


def visible_devices(variables: Mapping[str, str] = os.environ) -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, as it names them; None when it is not set."""
    named = variables.get("CUDA_VISIBLE_DEVICES")
    return None if named is None else [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]


def is_launched(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether accelerate or torchrun has started this process, be it the only one."""
    return "ACCELERATE_MIXED_PRECISION" in variables or "TORCHELASTIC_RUN_ID" in variables


def die_with_parent(what: signal.Signals = signal.SIGKILL) -> None:
    """Have Linux signal this process when the one that started it dies: no rank outlives its launcher."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, what)


class Team:
    """The ranks of one job talking to each other, on the CPU and apart from the trainer's own traffic.

    Alone, everything is answered at once. With several ranks every method has to be called by all of them.
    """

    def __init__(self, world: World = World(), group: Any = None) -> None:
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
        os.environ.update(_of_srun(os.environ))  # for all that looks there: torch, accelerate, DeepSpeed
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
        for other in filter(None, told):
            other.is_told_by_first = told[0] is not None
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
