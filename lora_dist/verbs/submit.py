"""compare --launcher slurm: the missing runs become jobs of a cluster, and this process is done with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.config.launch import LaunchSection
from lora_dist.config.profile import with_profile
from lora_dist.dispatch.adoption import live_runs
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.cluster import Cluster, end_jobs, problems_with, read_cluster
from lora_dist.dispatch.events import Listener
from lora_dist.dispatch.job_graph import JobPlan, plan_jobs
from lora_dist.dispatch.submission import Submitted, Submitter
from lora_dist.errors import ConfigError, raise_together
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.ledger import write_cancelled
from lora_dist.store.lock import exclusive
from lora_dist.training.stop import StopFlag
from lora_dist.verbs.folders import folder_of, unfinished
from lora_dist.verbs.prepare import Outset


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


@dataclass(frozen=True)
class JobPreview:
    """A job that would be submitted."""

    plan: JobPlan
    script: str
    """What sbatch would get."""


def submit(
    experiment: Experiment, *, only: Sequence[str] | None = None, listener: Listener | None = None
) -> SubmitResult:
    """Submit a job for every run that has no record and no job, those that others wait for first.

    The same call again submits nothing twice: jobs of a submitter that was killed are found by their names.

    Args:
        only: of the runs with these ids alone.
    Raises:
        Refused: something the user can mend is wrong; nothing has been submitted then.
        ConfigError: there is no cluster here, or it refuses a job.
        Held: another process submits jobs of this experiment.
        Interrupted: a signal came before anything was submitted.
    """
    listener, launch = listener or Listener(), _launch_of(experiment)
    outset, cluster = Outset.of(experiment), read_cluster()
    folder, live = outset.folder, live_runs(outset.folder)
    wanted = [run for run in outset.missing if run.id not in live and (only is None or run.id in only)]
    plans = _checked(wanted, launch, folder, cluster)
    worlds = {run.id: plan.ranks.world for plan in plans for run in plan.runs if plan.stage == "run"}
    stop = StopFlag(dies_when_asked_again=False)
    with stop.listening(), Nursery(launch.slurm.environment) as nursery:
        outset.make_ready(wanted, [worlds[run.id] for run in wanted], nursery, listener, stop)
    with exclusive(folder.submit_lock):
        live = live_runs(folder, adopt=True)  # another submitter may have been at work meanwhile
        wanted = [run for run in wanted if run.id not in live]
        jobs = _submit_all(_checked(wanted, launch, folder, cluster), Submitter(folder, launch.slurm))
    return SubmitResult(folder, jobs, live, len(outset.runs) - len(unfinished(outset.runs, folder)))


def preview_jobs(experiment: Experiment) -> list[JobPreview]:
    """The jobs that `submit` would submit; writes nothing.

    Raises:
        UserError: as `submit`.
    """
    launch, folder = _launch_of(experiment), folder_of(experiment)
    runs = unfinished(expand(experiment), folder)
    live = live_runs(folder)
    plans = _checked([run for run in runs if run.id not in live], launch, folder, read_cluster())
    submitter = Submitter(folder, launch.slurm)
    return [JobPreview(plan, submitter.script(plan, [f"<job {place + 1}>" for place in plan.after])) for plan in plans]


def _launch_of(experiment: Experiment) -> LaunchSection:
    return experiment.launch.model_copy(update={"slurm": with_profile(experiment.launch.slurm)})


def _checked(runs: Sequence[Run], launch: LaunchSection, folder: ExperimentFolder, cluster: Cluster) -> list[JobPlan]:
    """The jobs of these runs, as far as the cluster can do them."""
    if not runs:
        return []
    plans = plan_jobs(runs, launch, folder, cluster)
    raise_together(
        problem
        for plan in plans
        for problem in problems_with(
            plan.ask,
            plan.ranks.nodes,
            plan.ranks.gpus_per_node,
            plan.ranks.per_node * (plan.ask.cpus_per_rank or 1),
            cluster,
            f"launch.slurm.jobs.{plan.kind}" if plan.kind in launch.slurm.jobs else "launch.slurm",
        )
    )
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
