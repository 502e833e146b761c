"""What an experiment asks of a cluster, checked against what that has and allows; and what its users should know."""

from __future__ import annotations

from collections.abc import Iterator

from lora_dist.config.slurm import SlurmSection, mebibytes_of, minutes_of
from lora_dist.dispatch.cluster import Cluster, Machines
from lora_dist.dispatch.job_graph import JobPlan
from lora_dist.errors import Problem


def problems_with(plan: JobPlan, slurm: SlurmSection, cluster: Cluster) -> Iterator[Problem]:
    """What a kind of job asks for in vain."""
    key = f"launch.slurm.jobs.{plan.kind}" if plan.kind in slurm.jobs else "launch.slurm"
    ask, ranks = plan.ask, plan.ranks
    if ask.time is not None and minutes_of(ask.time) * 60 <= slurm.signal_seconds:
        yield Problem(
            "launch.slurm.signal_seconds",
            f"{slurm.signal_seconds} s before its limit is before a {plan.name} job of {ask.time} begins",
            f"lower it, or raise {key}.time",
        )
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
    if ranks.nodes > most:
        yield Problem(f"{key}.nodes", f"{ranks.nodes} machines, and {here} has {most}", f"use at most {most}")
    yield from _problems_with_machines(plan, [kind for part in partitions for kind in part.machines], key, here)


def _problems_with_machines(plan: JobPlan, machines: list[Machines], key: str, here: str) -> Iterator[Problem]:
    ask, gpus, cpus = plan.ask, plan.ranks.gpus_per_node, plan.ranks.per_node * (plan.ask.cpus_per_rank or 1)
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


def notes_on(cluster: Cluster) -> Iterator[str]:
    """What is different on this cluster, a line each."""
    if not cluster.has_accounting:
        yield "this cluster keeps no accounts: how jobs ended will be known from their workers alone"
    if cluster.preempts:  # a partition's GraceTime may give it longer
        told = "" if cluster.warns else ", and hears SIGTERM alone (no preempt_send_user_signal in SlurmctldParameters)"
        yield f"a job that is preempted has {cluster.kill_wait_s} s to save{told}: see train.checkpoint_steps"
