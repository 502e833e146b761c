"""The jobs of an experiment on a cluster: what each does, what it asks for, and which it waits for.

prune (one job for each pruned model) -> run (an array for each method, to its record) -> report (whatever happened)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from lora_dist.store.ledger import JobStage
from lora_dist.store.manifest import read_manifest
from lora_dist.world import World


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

    stage: JobStage
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
    arrays: dict[tuple[object, ...], tuple[JobPlan, list[Run]]] = {}
    for run in runs:
        after: tuple[int, ...] = ()
        if run.prune is not None:
            key = run.located().pruning_key
            if key not in pruning and read_manifest(folder.pruned(key)) is None:
                ask = launch.slurm.job("prune")
                pruning[key] = len(plans)
                plans.append(JobPlan("prune", "prune", (run,), ask, _ranks(ask, launch, run, cluster, trains=False)))
            after = (pruning[key],) if key in pruning else ()
        ask = launch.slurm.job(run.method.kind)
        ranks = _ranks(ask, launch, run, cluster, trains=True)
        alike = (run.method.kind, after, ranks.config and ranks.config.path)
        plan = JobPlan("run", run.method.kind, (), ask, ranks, after)
        arrays.setdefault(alike, (plan, []))[1].append(run)
    for plan, members in arrays.values():
        for start in range(0, len(members), cluster.largest_array):
            plans.append(replace(plan, runs=tuple(members[start : start + cluster.largest_array])))
    ask = launch.slurm.job("report").model_copy(update={"nodes": 1})
    plans.append(JobPlan("report", "report", (), ask, Ranks(1, 1, 0), tuple(range(len(plans)))))
    return plans


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
