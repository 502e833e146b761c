"""The cluster as its commands describe it: partitions, limits, GPUs; and what is asked of it checked against that."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from lora_dist.config.slurm import JobSection, mebibytes_of, minutes_of
from lora_dist.errors import ConfigError, Problem

_PATIENCE_S = 30.0
_TAKES_JOBS = frozenset({"idle", "mix", "alloc", "comp", "resv", "plnd"})
_NEEDED = ("sbatch", "scontrol", "sinfo", "squeue", "scancel")


@dataclass(frozen=True)
class Machines:
    """Alike machines of a partition."""

    count: int
    cpus: int
    memory_mib: int
    gpus: int
    gpu_types: frozenset[str]


@dataclass
class Partition:
    """A queue."""

    name: str
    is_default: bool
    is_up: bool
    longest_minutes: float
    machines: list[Machines] = field(default_factory=list)

    @property
    def nodes(self) -> int:
        """How many machines it has."""
        return sum(kind.count for kind in self.machines)

    @property
    def gpus(self) -> int:
        """Of the machine that has most."""
        return max((kind.gpus for kind in self.machines), default=0)


@dataclass(frozen=True)
class Cluster:
    """What a cluster has and allows."""

    partitions: dict[str, Partition]
    largest_array: int

    @property
    def default(self) -> Partition | None:
        """Where jobs go that name no partition."""
        return next((partition for partition in self.partitions.values() if partition.is_default), None)

    def named(self, names: str | None) -> list[Partition]:
        """The partitions that a job names, the known ones; the default where it names none."""
        if names is None:
            return [self.default] if self.default else []
        return [self.partitions[name] for name in names.split(",") if name in self.partitions]

    def gpus_per_node(self, names: str | None) -> int:
        """GPUs of the machine that has most, in the partitions that a job names."""
        return max((partition.gpus for partition in self.named(names)), default=0)


def read_cluster() -> Cluster:
    """Ask the cluster what it has.

    Raises:
        ConfigError: there is no SLURM on this machine, or it does not answer.
    """
    for program in _NEEDED:
        if shutil.which(program) is None:
            raise ConfigError(
                key="launch.launcher",
                problem=f"is slurm, and there is no {program} on this machine",
                fix="call this on a login node of the cluster, or use --launcher inline, local or accelerate",
            )
    limits = _settings(_asked("scontrol", "show", "config"))
    return Cluster(
        partitions=_partitions(_asked("sinfo", "-h", "-e", "-o", "%P|%a|%l|%D|%c|%m|%G")),
        largest_array=max(1, int(limits.get("MaxArraySize", "1001"))),
    )


def _asked(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - no input in it
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise _silent(command, f"has not answered for {_PATIENCE_S:.0f} s") from None
    if done.returncode != 0:
        raise _silent(command, " ".join(done.stderr.split())[:200])
    return done.stdout


def _silent(command: tuple[str, ...], why: str) -> ConfigError:
    return ConfigError(
        key="launch.launcher", problem=f"is slurm, and `{' '.join(command[:3])}` says: {why}", fix="try again later"
    )


def _settings(text: str) -> dict[str, str]:
    """`Name = value` lines."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _partitions(text: str) -> dict[str, Partition]:
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, up, limit, count, cpus, memory, gres = line.strip().split("|")
        partition = found.setdefault(
            name.rstrip("*"), Partition(name.rstrip("*"), name.endswith("*"), up == "up", _limit(limit))
        )
        gpus, types = _gpus(gres)
        partition.machines.append(Machines(int(count), int(cpus.rstrip("+")), int(memory.rstrip("+")), gpus, types))
    return found


def _limit(text: str) -> float:
    try:
        return minutes_of(text)
    except ValueError:  # infinite, n/a
        return math.inf


def _gpus(gres: str) -> tuple[int, frozenset[str]]:
    """How many GPUs `gpu:a100:4(S:0-1),gpu:2` is, and of which types."""
    count, types = 0, set()
    for kind, number in re.findall(r"gpu(?::([A-Za-z][^:,(]*))?(?::(\d+))?", gres):
        count += int(number or 1)
        types |= {kind} if kind else set()
    return count, frozenset(types)


def problems_with(ask: JobSection, nodes: int, gpus: int, cpus: int, cluster: Cluster, key: str) -> Iterator[Problem]:
    """What a kind of job asks for in vain.

    Args:
        nodes: machines of a job.
        gpus: of each machine.
        cpus: of each machine.
        key: the settings' place, such as launch.slurm or launch.slurm.jobs.full.
    """
    unknown = [name for name in (ask.partition or "").split(",") if name and name not in cluster.partitions]
    if unknown:
        there = ", ".join(cluster.partitions)
        yield Problem(f"{key}.partition", f"there is no partition '{unknown[0]}'", f"use one of {there}")
        return
    partitions = cluster.named(ask.partition)
    if not partitions:
        yield Problem(f"{key}.partition", "is not given, and the cluster has no default", "name a partition")
        return
    here = ", ".join(partition.name for partition in partitions)
    if not any(partition.is_up for partition in partitions):
        yield Problem(f"{key}.partition", f"{here} is down", "use another, or wait")
    longest = max(partition.longest_minutes for partition in partitions)
    if ask.time is not None and minutes_of(ask.time) > longest:
        yield Problem(f"{key}.time", f"{ask.time} is over the limit of {here}", f"use at most {longest:.0f} (minutes)")
    most = max(partition.nodes for partition in partitions)
    if nodes > most:
        yield Problem(f"{key}.nodes", f"{nodes} machines, and {here} has {most}", f"use at most {most}")
    yield from _problems_with_machines(
        ask, gpus, cpus, [kind for part in partitions for kind in part.machines], key, here
    )


def _problems_with_machines(
    ask: JobSection, gpus: int, cpus: int, machines: list[Machines], key: str, here: str
) -> Iterator[Problem]:
    most = max(kind.gpus for kind in machines)
    if gpus > most:
        yield Problem(f"{key}.gpus_per_node", f"{gpus} GPUs, and a machine of {here} has {most}", f"use at most {most}")
    types = frozenset().union(*(kind.gpu_types for kind in machines))
    if ask.gpu_type is not None and gpus and ask.gpu_type not in types:
        there = f"use one of {', '.join(sorted(types))}" if types else "leave it out: the cluster tells no types"
        yield Problem(f"{key}.gpu_type", f"no machine of {here} has '{ask.gpu_type}'", there)
    if cpus > (most_cpus := max(kind.cpus for kind in machines)):
        problem = f"{cpus} cores on a machine, and those of {here} have {most_cpus}"
        yield Problem(f"{key}.cpus_per_rank", problem, "ask for fewer cores or ranks")
    most_memory = max(kind.memory_mib for kind in machines)
    if ask.memory is not None and mebibytes_of(ask.memory) > most_memory:
        yield Problem(
            f"{key}.memory", f"{ask.memory}, and a machine of {here} has {most_memory}M", f"use at most {most_memory}M"
        )


@dataclass(frozen=True)
class Node:
    """A machine, as one of a partition's."""

    name: str
    partition: str
    takes_jobs: bool
    """Whether it is not down, drained or silent; it may be busy."""
    cpus: int
    memory_mib: int
    gpus: int


def nodes_of(partitions: str | None, cluster: Cluster) -> list[Node]:
    """The machines of the partitions that a job names; of the default where it names none.

    Raises:
        ConfigError: the cluster does not answer.
    """
    names = ",".join(partition.name for partition in cluster.named(partitions))
    found = []
    for line in _asked("sinfo", "-h", "-N", "-p", names, "-o", "%N|%P|%t|%c|%m|%G").splitlines():
        name, partition, state, cpus, memory, gres = line.strip().split("|")
        # What follows the state is a sign: * is one that does not answer, - one that is planned for a job, ...
        takes_jobs = re.sub(r"[^a-z]+$", "", state) in _TAKES_JOBS and not state.endswith("*")
        sizes = int(cpus.rstrip("+")), int(memory.rstrip("+")), _gpus(gres)[0]
        found.append(Node(name, partition.rstrip("*"), takes_jobs, *sizes))
    return found


def end_jobs(ids: list[str]) -> None:
    """scancel: what runs is told to save, and is killed after the cluster's KillWait.

    Raises:
        ConfigError: the cluster does not do it.
    """
    _asked("scancel", *ids)
