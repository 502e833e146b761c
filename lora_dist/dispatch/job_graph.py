"""The jobs of an experiment on a cluster: what each does, what it asks for, and which it waits for.

prune (one job for each pruned model) -> run (an array for each method, to its record) -> report (whatever happened)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_dist.assets import launch_config_path
from lora_dist.config.experiment import Run
from lora_dist.config.launch import LaunchSection
from lora_dist.config.slurm import JobKind, JobSection
from lora_dist.dispatch.cluster import Cluster
from lora_dist.dispatch.launch_config import LaunchConfig, read_launch_config
from lora_dist.pipeline.estimates import setting_of, shape_of_run
from lora_dist.planning.choice import Hardware, choose_launch_config
from lora_dist.planning.memory import Setting
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.manifest import read_manifest
from lora_dist.world import World

Stage = Literal["prune", "run", "report"]


@dataclass(frozen=True)
class Ranks:
    """The ranks of a job, and the machines that they are on."""

    nodes: int
    per_node: int
    gpus_per_node: int
    config: LaunchConfig | None = None
    """How they share a training; None for one rank, and for work that is no training."""

    @property
    def count(self) -> int:
        """Over all machines."""
        return self.nodes * self.per_node

    @property
    def world(self) -> World:
        """As the first rank will see it."""
        strategy = self.config.strategy(self.count) if self.config else ("ddp" if self.count > 1 else "plain")
        return World(0, self.count, 0, strategy)


@dataclass(frozen=True)
class JobPlan:
    """One job, or an array of them that ask for the same."""

    stage: Stage
    kind: JobKind
    runs: tuple[Run, ...]
    """The elements of the array; of a pruning the run that stands for all that share it."""
    ask: JobSection
    ranks: Ranks
    after: tuple[int, ...] = ()
    """Places in the plan of the jobs that have to end well before it starts; for a report, to end."""


def plan_jobs(runs: Sequence[Run], launch: LaunchSection, folder: ExperimentFolder, cluster: Cluster) -> list[JobPlan]:
    """The jobs of these runs, those that others wait for first.

    Args:
        launch: with the cluster's profile in it.
        cluster: what there is to ask for.
    Raises:
        ConfigError: a launch config cannot be used, or does not go with what a job asks for.
    """
    plans: list[JobPlan] = []
    pruning: dict[str, int] = {}
    for run in runs:
        if run.prune is not None and run.located().pruning_key not in pruning and not _is_pruned(run, folder):
            ask = launch.slurm.job("prune")
            pruning[run.located().pruning_key] = len(plans)
            plans.append(JobPlan("prune", "prune", (run,), ask, _ranks(ask, launch, run, cluster, trains=False)))
    groups: dict[tuple[object, ...], list[Run]] = {}
    places: dict[tuple[object, ...], tuple[int, ...]] = {}
    for run in runs:
        after = pruning.get(run.located().pruning_key) if run.prune is not None else None
        ask = launch.slurm.job(run.method.kind)
        ranks = _ranks(ask, launch, run, cluster, trains=True)
        key = (run.method.kind, after, ranks.nodes, ranks.per_node, ranks.config and ranks.config.path)
        groups.setdefault(key, []).append(run)
        places[key] = () if after is None else (after,)
    for key, members in groups.items():
        kind = members[0].method.kind
        ask = launch.slurm.job(kind)
        ranks = _ranks(ask, launch, members[0], cluster, trains=True)
        for start in range(0, len(members), cluster.largest_array):
            plans.append(
                JobPlan("run", kind, tuple(members[start : start + cluster.largest_array]), ask, ranks, places[key])
            )
    ask = launch.slurm.job("report").model_copy(update={"nodes": 1})
    plans.append(JobPlan("report", "report", (), ask, Ranks(1, 1, 0), tuple(range(len(plans)))))
    return plans


def _is_pruned(run: Run, folder: ExperimentFolder) -> bool:
    """Whether the model that this run would train or measure is on the disk, whole."""
    return read_manifest(folder.pruned(run.located().pruning_key)) is not None


def _ranks(ask: JobSection, launch: LaunchSection, run: Run, cluster: Cluster, *, trains: bool) -> Ranks:
    """The ranks of a job: one for each GPU, or as many as are asked for where there are no GPUs."""
    nodes = ask.nodes or launch.nodes
    gpus = ask.gpus_per_node
    if gpus is None:
        there = min(1, cluster.gpus_per_node(ask.partition))
        gpus = there if launch.gpus_per_node == "auto" else launch.gpus_per_node
    per_node = gpus or ask.ranks_per_node or 1
    if not trains or nodes * per_node == 1:
        return Ranks(nodes, per_node, gpus)
    name = ask.config or launch.config
    if name == "auto":
        name = _choice(run, nodes * per_node) if gpus else "cpu_zero2"
    return Ranks(nodes, per_node, gpus, read_launch_config(launch_config_path(name)))


def _choice(run: Run, ranks: int) -> str:
    """By the method and the number of GPUs; how much memory they have is not known from here."""
    shape = shape_of_run(run)
    setting = setting_of(run, shape, ranks) if shape else Setting(run.method)
    return choose_launch_config(shape, setting, Hardware(ranks, None)).config
