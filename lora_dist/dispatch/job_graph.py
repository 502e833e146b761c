"""The jobs of an experiment on a cluster: what each does, what it asks for, and which it waits for.

prepare (where asked for) -> prune (one job for each pruned model) -> run (an array for each method) -> report

Where several ranks train and one measures, `run` is two: train -> evaluate.
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
from lora_dist.pipeline.estimates import launch_choice
from lora_dist.planning.choice import Hardware
from lora_dist.planning.strategies import strategy_problems
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.ledger import JobStage, is_array
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
    """The elements of the array; of a pruning the run that stands for all that share it, of a preparation all."""
    ask: JobSection
    ranks: Ranks
    after: tuple[int, ...] = ()
    """Places in the plan of the jobs that have to end well before it starts; for a report, to end."""
    worlds: tuple[World, ...] = ()
    """For a preparation: the ranks that each run will have."""

    @property
    def name(self) -> str:
        """What it does, in words: prune, run lora, train full."""
        return self.stage if self.stage == self.kind else f"{self.stage} {self.kind}"

    @property
    def is_array(self) -> bool:
        """Whether each of its runs is an element of its own."""
        return is_array(self.stage, self.runs)


def plan_jobs(runs: Sequence[Run], launch: LaunchSection, folder: ExperimentFolder, cluster: Cluster) -> list[JobPlan]:
    """The jobs of these runs, those that others wait for first.

    Args:
        launch: with the cluster's profile in it.
        cluster: what there is to ask for.
    Raises:
        ConfigError: a launch config cannot be used, or does not go with what a job asks for.
    """
    graph = _Graph(launch, folder, cluster)
    if launch.slurm.prepare == "job":
        graph.add_preparation(runs)
    for run in runs:
        graph.add_run(run)
    graph.add_report()
    return graph.plans


def worlds_of(runs: Sequence[Run], launch: LaunchSection, cluster: Cluster) -> list[World]:
    """The ranks that each run will be trained by; arguments and errors as `plan_jobs`."""
    return [_ranks(launch.slurm.job(run.method.kind), launch, run, cluster, trains=True).world for run in runs]


class _Graph:
    """Jobs as they are added; runs that ask for the same are kept back, to become arrays."""

    def __init__(self, launch: LaunchSection, folder: ExperimentFolder, cluster: Cluster) -> None:
        self.launch, self.folder, self.cluster = launch, folder, cluster
        self.plans: list[JobPlan] = []
        self._first: tuple[int, ...] = ()
        self._prunings: dict[str, int] = {}
        self._alike: dict[tuple[object, ...], tuple[JobPlan, list[Run]]] = {}

    def add_preparation(self, runs: Sequence[Run]) -> None:
        worlds = tuple(worlds_of(runs, self.launch, self.cluster))
        ask = self.launch.slurm.job("prepare").model_copy(update={"nodes": 1})
        self._first = (self._add(JobPlan("prepare", "prepare", tuple(runs), ask, Ranks(1, 1, 0), worlds=worlds)),)

    def add_run(self, run: Run) -> None:
        ask = self.launch.slurm.job(run.method.kind)
        ranks = _ranks(ask, self.launch, run, self.cluster, trains=True)
        after = self._first if run.prune is None else self._pruning(run)
        stage: JobStage = "run" if not self._is_measured_apart(run, ranks) else "train"
        if stage == "train" and self.folder.run(run.id).training.exists():
            plan = JobPlan("evaluate", "evaluate", (), *self._measuring())
        else:
            plan = JobPlan(stage, run.method.kind, (), ask, ranks, after)
        alike = (plan.stage, plan.kind, plan.after, plan.ranks.config and plan.ranks.config.path)
        self._alike.setdefault(alike, (plan, []))[1].append(run)

    def add_report(self) -> None:
        for plan, members in self._alike.values():
            for start in range(0, len(members), self.cluster.largest_array):
                runs = tuple(members[start : start + self.cluster.largest_array])
                place = self._add(replace(plan, runs=runs))
                if plan.stage == "train":
                    ask, ranks = self._measuring()
                    self._add(JobPlan("evaluate", "evaluate", runs, ask, ranks, (place,)))
        ask = self.launch.slurm.job("report").model_copy(update={"nodes": 1})
        self._add(JobPlan("report", "report", (), ask, Ranks(1, 1, 0), tuple(range(len(self.plans)))))

    def _add(self, plan: JobPlan) -> int:
        self.plans.append(plan)
        return len(self.plans) - 1

    def _pruning(self, run: Run) -> tuple[int, ...]:
        """The jobs that a pruned run waits for; one prunes for all that share the model."""
        key = run.located().pruning_key
        if key not in self._prunings:
            if read_manifest(self.folder.pruned(key)) is not None:
                return self._first
            ask = self.launch.slurm.job("prune")
            ranks = _ranks(ask, self.launch, run, self.cluster, trains=False)
            self._prunings[key] = self._add(JobPlan("prune", "prune", (run,), ask, ranks, self._first))
        return (self._prunings[key],)

    def _is_measured_apart(self, run: Run, ranks: Ranks) -> bool:
        """After ZeRO-3 one rank measures, and the others would hold their GPUs meanwhile."""
        is_shared = run.trains and ranks.count > 1
        return is_shared and (ranks.world.strategy == "zero3" or "evaluate" in self.launch.slurm.jobs)

    def _measuring(self) -> tuple[JobSection, Ranks]:
        """One rank, unless jobs.evaluate says more: what all jobs ask for is meant for trainings."""
        own, ask = self.launch.slurm.jobs.get("evaluate", JobSection()), self.launch.slurm.job("evaluate")
        there = min(1, self.cluster.gpus_per_node(ask.partition))
        gpus = there if own.gpus_per_node is None else own.gpus_per_node
        return ask, Ranks(own.nodes or 1, gpus or own.ranks_per_node or 1, gpus)


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
        name = _choice(run, nodes * per_node) if gpus else _choice_without_gpus(run)
    return Ranks(nodes, per_node, gpus, read_launch_config(launch_config_path(name)))


def _choice_without_gpus(run: Run) -> str:
    return "cpu_ddp" if any(strategy_problems(run.method.kind, "zero2", run.data.task)) else "cpu_zero2"


def _choice(run: Run, ranks: int) -> str:
    """By the method and the number of GPUs; how much memory they have is not known from here."""
    return launch_choice(run, Hardware(ranks)).config
