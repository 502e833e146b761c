"""launch.slurm: what jobs ask a SLURM cluster for. A group keeps its cluster's answers in a profile that it shares."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, StringConstraints, field_validator

from lora_dist.config.sections import Section, Text, Whole, WholeOrZero

JobKind = Literal["prepare", "prune", "base", "lora", "qlora", "partial", "full", "prefix", "ia3", "evaluate", "report"]
"""What a job does: check and tokenise, prune a model, do a run of a method, measure what several ranks have trained,
or write the report."""

# One line, of characters that no shell and no sbatch directive take for anything else.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,:+@&|\[\]()*=/-]*$", max_length=200)]
Line = Annotated[str, StringConstraints(pattern=r"^[^\n\r]+$")]

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
"""The environment of processes that take models and data from the cache, and ask no hub."""

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[KMGT])(?:i?B)?")
_MIB = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


def minutes_of(time: str) -> int:
    """A time as SLURM writes it, in minutes, rounded up: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        ValueError: it is none.
    """
    found = _TIME.fullmatch(time)
    if found is None:
        raise ValueError(f"'{time}' is no time, such as 90 (minutes), 04:00:00 or 1-12:00:00")
    first, second, third = (int(found[name] or 0) for name in ("first", "second", "third"))
    if found["days"] is not None:
        return int(found["days"]) * 1440 + first * 60 + second + math.ceil(third / 60)
    if found["third"] is not None:
        return first * 60 + second + math.ceil(third / 60)
    return first + math.ceil(second / 60)


def mebibytes_of(size: str) -> int:
    """A size such as 64G, 64GiB or 1.5T, in MiB; SLURM knows no other than powers of 1024.

    Raises:
        ValueError: it is none.
    """
    found = _SIZE.fullmatch(size)
    if found is None:
        raise ValueError(f"'{size}' is no size, such as 64G or 512M")
    return math.ceil(float(found["number"]) * _MIB[found["unit"]])


def _time(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and minutes_of(value) < 1:
        raise ValueError("a job needs at least a minute")
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        mebibytes_of(value)
    return value


class JobSection(Section):
    """What one kind of job asks for; null leaves it to launch.slurm, and there to the cluster."""

    partition: Word | None = None
    """Partition, or several with commas between them."""
    account: Word | None = None
    """Who pays."""
    qos: Word | None = None
    """Quality of service."""
    time: Annotated[str, BeforeValidator(_time)] | None = None
    """Limit: minutes, H:M:S or D-H:M:S. A run that meets it is saved and goes on in another job."""
    nodes: Whole | None = None
    """Machines of a job; null is launch.nodes."""
    gpus_per_node: WholeOrZero | None = None
    """GPUs on each machine, one rank for each; 0 is a job without; null is launch.gpus_per_node."""
    ranks_per_node: Whole | None = None
    """Ranks on each machine, for jobs without GPUs; null is one."""
    config: Text | None = None
    """The launch config of its ranks (zero2, cpu_zero2, ... or a path); null is launch.config."""
    gpu_type: Word | None = None
    """Such as a100, where the cluster tells its GPUs apart."""
    constraint: Word | None = None
    """Features that a machine has to have."""
    cpus_per_rank: Whole | None = None
    """Cores for each rank."""
    memory: Annotated[str, BeforeValidator(_size)] | None = None
    """Memory of each machine, such as 64G."""
    exclude: Word | None = None
    """Machines that are not to be used."""
    reservation: Word | None = None
    """A reservation to run in."""


class SlurmSection(JobSection):
    """slurm: what jobs ask for, and how many at a time."""

    profile: Text | None = None
    """A YAML file with these same settings that a group shares; what is given here comes before it."""
    setup: list[Line] = []
    """Shell lines at the top of every job, such as `module load cuda` or `source .venv/bin/activate`."""
    prepare: Literal["here", "job"] = "here"
    """Where runs are checked and the data is tokenised: here, before anything is submitted, so that every mistake is
    told at once; or in a job that the others wait for, where a login node is not to do such work."""
    offline: bool = False
    """For nodes without internet: jobs run with HF_HUB_OFFLINE=1 and HF_DATASETS_OFFLINE=1. What they need has to be in
    the cache (`lora-dist prefetch EXPERIMENT`); with prepare=here that is checked before anything is submitted."""
    array_cap: Whole | None = None
    """Runs of a sweep at a time; null leaves it to the cluster."""
    resubmissions: WholeOrZero = 3
    """How often a run is submitted again, by the job that writes the report, that the cluster has ended (time limit,
    preemption, node) before it could give its job back itself; 0 leaves that to `lora-dist retry`."""
    signal_seconds: Whole = 120
    """How long before its time limit a job is told to save."""
    extra: dict[Word, str | int | bool] = {}
    """Any other sbatch option by its long name without dashes, such as {mail-type: FAIL}."""
    jobs: dict[JobKind, JobSection] = {}
    """What a kind of job asks for otherwise: {full: {nodes: 2, config: zero3}, prune: {nodes: 4}}. With `evaluate` in
    it, what several ranks have trained is measured by a job of its own, with one rank; after ZeRO-3 it always is."""

    @field_validator("extra")
    @classmethod
    def _options_are_not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name.replace("-", "_") in _OURS:
                raise ValueError(f"'{name}' is set by lora_dist: use the setting of launch.slurm, or leave it out")
        return value

    @property
    def environment(self) -> dict[str, str]:
        """Variables that jobs are given."""
        return OFFLINE if self.offline else {}

    def job(self, kind: JobKind) -> JobSection:
        """What jobs of this kind ask for, with what all ask for."""
        common = self.model_dump(include=set(JobSection.model_fields))
        own = self.jobs[kind].model_dump(exclude_none=True) if kind in self.jobs else {}
        return JobSection(**common | own)


_OURS = {
    "partition", "account", "qos", "time", "nodes", "gres", "gpus_per_node", "gpus", "constraint", "mem", "exclude",
    "reservation", "array", "job_name", "comment", "dependency", "signal", "requeue", "no_requeue", "output", "error",
    "ntasks", "ntasks_per_node", "cpus_per_task", "kill_on_invalid_dep", "open_mode", "chdir", "export", "wrap",
}  # fmt: skip
