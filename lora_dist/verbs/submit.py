"""compare --launcher slurm: the missing runs become jobs of a cluster, and this process is done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.config.profile import with_profile
from lora_dist.dispatch.adoption import TO_THE_RECORD, live_runs
from lora_dist.dispatch.bad_nodes import Placed, placed
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.cluster import Cluster, end_jobs, read_cluster
from lora_dist.dispatch.cluster_checks import notes_on, problems_with
from lora_dist.dispatch.events import Listener
from lora_dist.dispatch.job_graph import JobPlan, plan_jobs, worlds_of
from lora_dist.dispatch.submission import Submitted, Submitter
from lora_dist.errors import ConfigError, raise_together
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.ledger import write_cancelled
from lora_dist.store.lock import exclusive
from lora_dist.training.stop import StopFlag
from lora_dist.verbs.folders import folder_of, unfinished
from lora_dist.verbs.prepare import Outset
from lora_dist.verbs.prune import untrained
from lora_dist.world import World


@dataclass(frozen=True)
class SubmitResult:
    """What `submit` leaves."""

    folder: ExperimentFolder
    jobs: list[Submitted]
    """In the order in which they were submitted."""
    live: dict[str, str]
    """Runs that had a job already, by id; and that job."""
    finished: int
    """Runs that have a record."""
    notes: tuple[str, ...] = ()
    """What is different on this cluster; which jobs are kept off nodes that failed under their runs, or cannot be."""


@dataclass(frozen=True)
class JobPreview:
    """A job that would be submitted."""

    plan: JobPlan
    script: str
    """What sbatch would get."""


@dataclass(frozen=True)
class Preview:
    """What `submit` would do."""

    jobs: list[JobPreview]
    notes: tuple[str, ...]
    """As of a `SubmitResult`."""


def submit(
    experiment: Experiment,
    *,
    only: Sequence[str] | None = None,
    prune_only: bool = False,
    listener: Listener | None = None,
) -> SubmitResult:
    """Submit a job for every run that has no record and no job, those that others wait for first.

    The same call again submits nothing twice: jobs of a submitter that was killed are found by their names.

    Args:
        only: of the runs with these ids alone.
        prune_only: the prunings of these runs alone.
    Raises:
        Refused: something the user can mend is wrong; nothing has been submitted then.
        ConfigError: there is no cluster here, or it refuses a job.
        Held: another process submits jobs of this experiment.
        Interrupted: a signal came before anything was submitted.
    """
    asked = _Asked(experiment, only, prune_only)
    outset, cluster = Outset.of(experiment), read_cluster()
    folder, live = outset.folder, asked.live(outset.folder)
    wanted = asked.wanted(outset.missing, live)
    asked.plans(wanted, folder, cluster)
    if asked.launch.slurm.prepare == "here":
        stop = StopFlag(dies_when_asked_again=False)
        with stop.listening(), Nursery(asked.launch.slurm.environment) as nursery:
            outset.make_ready(*asked.to_check(wanted, cluster), nursery, listener or Listener(), stop)
    else:
        outset.make_folders()
    with exclusive(folder.submit_lock):
        live = asked.live(folder, adopt=True)  # another submitter may have been at work meanwhile
        put = placed(asked.plans(asked.wanted(wanted, live), folder, cluster), folder, cluster)
        jobs = _submit_all([item.plan for item in put], Submitter(folder, asked.launch.slurm))
    finished = len(outset.runs) - len(unfinished(outset.runs, folder))
    return SubmitResult(folder, jobs, live, finished, _notes(cluster, put))


def preview_jobs(experiment: Experiment, *, only: Sequence[str] | None = None, prune_only: bool = False) -> Preview:
    """The jobs that `submit` would submit; writes nothing. Arguments and errors as there."""
    asked, folder = _Asked(experiment, only, prune_only), folder_of(experiment)
    runs = unfinished(expand(experiment), folder)
    cluster, submitter = read_cluster(), Submitter(folder, asked.launch.slurm)
    plans = asked.plans(asked.wanted(runs, asked.live(folder)), folder, cluster)
    put = placed(plans, folder, cluster)
    jobs = [
        JobPreview(item.plan, submitter.script(item.plan, [f"<job {place + 1}>" for place in item.plan.after]))
        for item in put
    ]
    return Preview(jobs, _notes(cluster, put))


def _notes(cluster: Cluster, put: Sequence[Placed]) -> tuple[str, ...]:
    """Nothing where there are no jobs to which it could matter."""
    return (*notes_on(cluster), *(item.note for item in put if item.note)) if put else ()


class _Asked:
    """Which runs are asked for, and how far."""

    def __init__(self, experiment: Experiment, only: Sequence[str] | None, prune_only: bool) -> None:
        launch = experiment.launch
        self.launch = launch.model_copy(update={"slurm": with_profile(launch.slurm)})
        self.only, self.prune_only = only, prune_only

    def live(self, folder: ExperimentFolder, *, adopt: bool = False) -> dict[str, str]:
        """What is on its way already, by run; see `live_runs`."""
        return live_runs(folder, adopt=adopt, stages=("prune",) if self.prune_only else TO_THE_RECORD)

    def wanted(self, runs: Sequence[Run], live: Mapping[str, str]) -> list[Run]:
        """Those of these runs that need a job."""
        return [run for run in runs if run.id not in live and (self.only is None or run.id in self.only)]

    def to_check(self, runs: Sequence[Run], cluster: Cluster) -> tuple[list[Run], list[World]]:
        """What of these runs is checked, and the ranks that each will have."""
        if self.prune_only:
            return [untrained(run) for run in runs], [World()] * len(runs)
        return list(runs), worlds_of(runs, self.launch, cluster)

    def plans(self, runs: Sequence[Run], folder: ExperimentFolder, cluster: Cluster) -> list[JobPlan]:
        """The jobs of these runs, as far as the cluster can do them.

        Raises:
            Refused: it cannot.
        """
        if not runs:
            return []
        plans = plan_jobs(runs, self.launch, folder, cluster)
        if self.prune_only:  # they come first, so that their places stay
            plans = [plan for plan in plans if plan.stage in ("prepare", "prune")]
            plans = plans if any(plan.stage == "prune" for plan in plans) else []
        raise_together(problem for plan in plans for problem in problems_with(plan, self.launch.slurm, cluster))
        return plans


def _submit_all(plans: Sequence[JobPlan], submitter: Submitter) -> list[Submitted]:
    """Submit all of them, or none: where the cluster refuses one, those before it are ended again."""
    jobs: list[Submitted] = []
    try:
        for plan in plans:
            jobs.append(submitter.submit(plan, [jobs[place] for place in plan.after]))
    except ConfigError:
        if jobs:
            end_jobs([job.job for job in jobs])
        for job in jobs:
            write_cancelled(submitter.folder.ledger, job.submission)
        raise
    return jobs
