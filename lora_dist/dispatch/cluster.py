"""The cluster as its commands describe it: partitions, limits, GPUs, nodes."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import dataclass, field

from lora_dist.config.slurm import minutes_of
from lora_dist.errors import ConfigError

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
    has_accounting: bool = True
    """Whether it remembers how jobs ended (sacct)."""
    preempts: bool = False
    """Whether one job may take the place of another."""
    warns: bool = True
    """Whether a job that is preempted is sent its own signal, and not SIGTERM alone."""
    kill_wait_s: int = 30
    """Seconds from that, or from SIGTERM, to SIGKILL, where a partition gives no longer grace."""

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
        has_accounting=not limits.get("AccountingStorageType", "").endswith("/none"),
        preempts=limits.get("PreemptMode", "OFF").split(",")[0] != "OFF",
        warns="preempt_send_user_signal" in limits.get("SlurmctldParameters", ""),
        kill_wait_s=int(limits.get("KillWait", "30").split()[0]),
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
