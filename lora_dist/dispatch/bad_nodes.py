"""Nodes that failed under a run: its next job is kept off them by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lora_dist.config.slurm import mebibytes_of
from lora_dist.dispatch.cluster import Cluster, Node, nodes_of
from lora_dist.dispatch.elements import Element, element_of
from lora_dist.dispatch.failures import log_of_job, tail_of
from lora_dist.dispatch.job_graph import JobPlan
from lora_dist.dispatch.job_log import lost_nodes
from lora_dist.dispatch.scheduler import seen_jobs
from lora_dist.dispatch.scheduler_words import nodes_in
from lora_dist.store.attempts import NODE_UNFIT_CAUSE
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.histories import History, histories_in
from lora_dist.store.ledger import read_submissions
from lora_dist.store.lines import read_lines

_PATIENCE_S = 30.0
_OF_THE_NODE = ("NODE_FAIL", "BOOT_FAIL")


@dataclass(frozen=True)
class Placed:
    """A job, kept off the nodes that failed under its runs."""

    plan: JobPlan
    note: str = ""
    """What there is to say of that, in a line; empty where no node has failed."""


def placed(plans: Sequence[JobPlan], folder: ExperimentFolder, cluster: Cluster) -> list[Placed]:
    """These jobs with the nodes excluded that failed under their runs before, joined with `launch.slurm.exclude`.

    Where fewer nodes would be left than a job needs, it is kept off none.

    Raises:
        ConfigError: the cluster does not answer.
    """
    bad = bad_nodes(folder, [run.id for plan in plans for run in plan.runs])
    return [_placed(plan, sorted(set().union(*(bad.get(run.id, ()) for run in plan.runs))), cluster) for plan in plans]


def bad_nodes(folder: ExperimentFolder, runs: Sequence[str]) -> dict[str, set[str]]:
    """The nodes that failed under each of these runs: by the accounts, by what srun printed, and by their workers.

    Of a job on several nodes the accounts do not say which one it was.
    """
    wanted = set(runs)
    submissions = [item for item in read_submissions(folder.ledger) if item.job and wanted & set(item.runs)]
    if not submissions:
        return {}
    oldest = min(item.time for item in submissions)
    snapshot = seen_jobs(oldest, _PATIENCE_S, jobs=[item.job for item in submissions])
    found: dict[str, set[str]] = {}
    for item in submissions:
        for index, run in enumerate(item.runs):
            if run in wanted:
                element = element_of(item, item.job, index, snapshot)
                by_log = lost_nodes(tail_of(log_of_job(folder, element.job)))
                found.setdefault(run, set()).update(_by_accounts(element), by_log)
    for run, history in histories_in(read_lines(folder.ledger)).items():
        if run in wanted:
            found.setdefault(run, set()).update(_by_workers(history))
    return found


def _by_workers(history: History) -> Iterator[str]:
    """Nodes that a worker found to lack what its job was given."""
    for attempt in history.attempts:
        if attempt.end.get("cause") == NODE_UNFIT_CAUSE:
            yield str(attempt.end.get("host"))


def _by_accounts(element: Element) -> Iterator[str]:
    for start in [*element.starts, *([element.queued] if element.queued else [])]:
        names = nodes_in(start.nodes)
        if start.state in _OF_THE_NODE and len(names) == 1:
            yield names[0]


def _placed(plan: JobPlan, bad: list[str], cluster: Cluster) -> Placed:
    own = nodes_in(plan.ask.exclude or "")
    bad = [name for name in bad if name not in own]
    nodes = nodes_of(plan.ask.partition, cluster) if bad else []
    bad = [name for name in bad if any(node.name == name for node in nodes)]  # sbatch refuses names it does not know
    if not bad:
        return Placed(plan)
    fit = [node.partition for node in nodes if _fits(plan, node) and node.name not in (*own, *bad)]
    left = max(Counter(fit).values(), default=0)
    named = ", ".join(bad)
    if left < plan.ranks.nodes:
        needs = f"it needs {plan.ranks.nodes} nodes, and without them {left} could take it"
        return Placed(plan, f"{plan.name}: not kept off {named}, which failed under it: {needs}")
    exclude = ",".join([*([plan.ask.exclude] if plan.ask.exclude else []), *bad])
    kept_off = replace(plan, ask=plan.ask.model_copy(update={"exclude": exclude}))
    return Placed(kept_off, f"{plan.name}: kept off {named}, which failed under it")


def _fits(plan: JobPlan, node: Node) -> bool:
    """Whether a node takes jobs, and has what this one asks of each; its features are not looked at."""
    ask, ranks = plan.ask, plan.ranks
    has_memory = ask.memory is None or mebibytes_of(ask.memory) <= node.memory_mib
    has_cpus = node.cpus >= ranks.per_node * (ask.cpus_per_rank or 1)
    return node.takes_jobs and has_memory and has_cpus and node.gpus >= ranks.gpus_per_node
