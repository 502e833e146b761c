"""Ranks: who this process is among how many, and which job it is part of. The only reader of RANK and the like."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_dist.config.sections import Strategy
from lora_dist.errors import ConfigError

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
    variables = {**variables, **meeting_place(variables)}
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


def meeting_place(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a launcher would have set, for the tasks of an `srun` of several (a batch script is no task of a step)."""
    size = variables.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in variables or "SLURM_PROCID" not in variables or not size.isdecimal() or int(size) < 2:
        return {}
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")  # a job that comes back: its old port may linger
    job, step, restart = (int(variables.get(name) or "0") for name in names)
    return {
        "RANK": variables["SLURM_PROCID"],
        "WORLD_SIZE": size,
        "LOCAL_RANK": variables.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": variables.get("MASTER_ADDR") or _first_host(variables.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": variables.get("MASTER_PORT") or str(_PORTS[0] + (31 * job + step + 7 * restart) % len(_PORTS)),
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


def without_job(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process that is to submit jobs of its own, though it is part of one."""
    prefixes = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
    kept = {name: value for name, value in variables.items() if not name.startswith(prefixes)}
    return {**kept, **{name: variables[name] for name in ("SLURM_CONF",) if name in variables}}


def visible_devices(variables: Mapping[str, str] = os.environ) -> list[str] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, as it names them; None when it is not set."""
    named = variables.get("CUDA_VISIBLE_DEVICES")
    return None if named is None else [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]


def is_launched(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether accelerate or torchrun has started this process, be it the only one."""
    return "ACCELERATE_MIXED_PRECISION" in variables or "TORCHELASTIC_RUN_ID" in variables


def this_node(variables: Mapping[str, str] = os.environ) -> str:
    """This machine, by the name that SLURM has for it where there is one."""
    return variables.get("SLURMD_NODENAME") or socket.gethostname()


@dataclass(frozen=True)
class SlurmJob:
    """The job of a cluster that this process is part of."""

    id: str
    """123, or 123_4 for an element of an array."""
    restart: int
    """How often the cluster has started it again."""
    nodes: str
    """As SLURM writes a list of machines: gpu[03-05]."""
    machines: int
    gpus_here: int
    """Of this machine; a job has as many on each."""
    element: int | None
    """Its number in the array."""

    @property
    def gpus(self) -> int:
        """Over all machines."""
        return self.machines * self.gpus_here

    def facts(self) -> dict[str, Any]:
        """What the ledger says of it."""
        return {"job": self.id, "restart": self.restart, "nodes": self.nodes, "gpus": self.gpus}


def current_job(variables: Mapping[str, str] = os.environ) -> SlurmJob | None:
    """The job that this process runs in; None where no cluster has started it.

    Raises:
        ConfigError: a variable of SLURM's is no number.
    """
    if "SLURM_JOB_ID" not in variables:
        return None
    array, element = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    here = variables.get("SLURM_JOB_GPUS") or variables.get("SLURM_STEP_GPUS") or ""
    return SlurmJob(
        id=f"{array}_{element}" if array and element else variables["SLURM_JOB_ID"],
        restart=_whole(variables, "SLURM_RESTART_COUNT", 0),
        nodes=variables.get("SLURM_JOB_NODELIST", ""),
        machines=_whole(variables, "SLURM_JOB_NUM_NODES", 1),
        gpus_here=len(list(filter(None, here.split(",")))),
        element=_whole(variables, "SLURM_ARRAY_TASK_ID", 0) if element else None,
    )
