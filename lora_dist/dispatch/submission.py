"""Jobs handed to the cluster through submitit, each written into the ledger before sbatch knows of it.

A job is told one file: what to do, on which runs. Nothing is pickled, so that a job that was submitted yesterday does
not run code of today by another name, and a submitter that dies leaves nothing that waits for it.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_dist.config.slurm import SlurmSection, mebibytes_of, minutes_of
from lora_dist.dispatch.job_graph import JobPlan
from lora_dist.dispatch.job_log import START
from lora_dist.dispatch.launch_config import write_located
from lora_dist.errors import ConfigError
from lora_dist.store.atomic import storage_errors
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.job_file import JobFile
from lora_dist.store.ledger import write_abandoned, write_submitted, write_submitting

_LONGEST_NAME = 100


@dataclass(frozen=True)
class Submitted:
    """A job that the cluster has taken."""

    plan: JobPlan
    submission: str
    job: str


class Submitter:
    """Hands the jobs of one experiment to the cluster."""

    def __init__(self, folder: ExperimentFolder, slurm: SlurmSection) -> None:
        self.folder, self.slurm = folder, slurm

    def submit(self, plan: JobPlan, after: Sequence[Submitted]) -> Submitted:
        """Submit a job (or an array) that waits for these.

        Raises:
            ConfigError: the cluster does not take it; its own words are in the message.
            StorageError: its files cannot be written.
        """
        submission = secrets.token_hex(4)
        self._write_files(plan, submission)
        name = job_name(plan, self.folder, submission)
        resources: dict[str, Any] = {"nodes": plan.ranks.nodes, "gpus": plan.ranks.nodes * plan.ranks.gpus_per_node}
        if plan.ask.exclude:
            resources["exclude"] = plan.ask.exclude
        runs = [run.id for run in plan.runs]
        write_submitting(
            self.folder.ledger,
            submission,
            job_name=name,
            stage=plan.stage,
            runs=runs,
            resources=resources,
            after=[job.submission for job in after],
        )
        try:
            job = _sbatch(self._executor(plan, submission, [job.job for job in after]), self._command(plan, submission))
        except _Refusal as error:
            said = str(error)
            write_abandoned(self.folder.ledger, submission, said[-500:])
            raise ConfigError(
                key="launch.slurm",
                problem=f"the cluster refuses {name}: {_refusal(said)}",
                fix="change what the job asks for",
            ) from None
        write_submitted(self.folder.ledger, submission, job)
        return Submitted(plan, submission, job)

    def script(self, plan: JobPlan, after: Sequence[str] = (), submission: str = "00000000") -> str:
        """The sbatch script of a job, for a person to read."""
        return self._executor(plan, submission, after)._make_submission_file_text(self._command(plan, submission), "")

    def _write_files(self, plan: JobPlan, submission: str) -> None:
        """What the job's workers are told: stage and runs, and how their ranks share a training."""
        place = self.folder.jobs
        with storage_errors(place):
            place.mkdir(mode=0o700, exist_ok=True)
        config = None
        if plan.ranks.config is not None:
            config = write_located(plan.ranks.config, place / submission, processes=plan.ranks.count)
        JobFile(
            stage=plan.stage,
            runs=tuple(run.id for run in plan.runs),
            launch_config=str(config) if config else None,
            signal_seconds=self.slurm.signal_seconds,
            worlds=tuple((world.size, world.strategy) for world in plan.worlds),
        ).write(place / f"{submission}.json")

    def _command(self, plan: JobPlan, submission: str) -> str:
        """What the script calls through srun; and, where ranks can lose each other, what follows if that fails."""
        program, file = [sys.executable, "-u", "-m", "lora_dist"], str(self._file(submission))
        work = shlex.join([*program, "work", file])
        return work if plan.ranks.count == 1 else f"{work} || {shlex.join([*program, 'give-back', file])} $?"

    def _file(self, submission: str) -> Path:
        return (self.folder.jobs / f"{submission}.json").resolve()

    def _executor(self, plan: JobPlan, submission: str, after: Sequence[str]) -> Any:
        from submitit.slurm.slurm import SlurmExecutor

        executor = SlurmExecutor(folder=self.folder.jobs.resolve(), python=shlex.quote(sys.executable))
        executor.update_parameters(**self._parameters(plan, submission, after))
        if plan.is_array:
            executor.parameters["map_count"] = len(plan.runs)
        return executor

    def _parameters(self, plan: JobPlan, submission: str, after: Sequence[str]) -> dict[str, Any]:
        """By submitit's names for them; what has none there goes through `additional_parameters`."""
        ask, ranks = plan.ask, plan.ranks
        gres = f"gpu:{ask.gpu_type}:{ranks.gpus_per_node}" if ask.gpu_type else f"gpu:{ranks.gpus_per_node}"
        found: dict[str, Any] = {
            "job_name": job_name(plan, self.folder, submission),
            "comment": f"lora_dist {self.folder.path.name} {' '.join(run.id for run in plan.runs)}"[:_LONGEST_NAME],
            "partition": ask.partition,
            "account": ask.account,
            "qos": ask.qos,
            "time": minutes_of(ask.time) if ask.time else None,
            "nodes": ranks.nodes,
            "ntasks_per_node": ranks.per_node,
            "cpus_per_task": ask.cpus_per_rank,
            "gres": gres if ranks.gpus_per_node else None,
            "mem": f"{mebibytes_of(ask.memory)}MB" if ask.memory else None,
            "constraint": ask.constraint,
            "exclude": ask.exclude,
            "dependency": _dependency(plan, after),
            "signal_delay_s": self.slurm.signal_seconds,
            "stderr_to_stdout": True,
            "setup": [*_SETUP, *_exports(self.slurm.environment), *self.slurm.setup],
            "srun_args": ["--kill-on-bad-exit=1"],
            "array_parallelism": self.slurm.array_cap or len(plan.runs) or 1,
            "wckey": None,
        }
        more: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes", **self.slurm.extra}
        if ask.reservation:
            more["reservation"] = ask.reservation
        # submitit has values of its own for these two, which None takes away.
        kept = {name: value for name, value in found.items() if value is not None or name in ("time", "wckey")}
        return {**kept, "additional_parameters": more}


class _Refusal(Exception):
    """sbatch has said no."""


def _sbatch(executor: Any, command: str) -> str:
    """Submit a command; the job's id. submitit prints what sbatch complains of, and it is in the error as well."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return executor._submit_command(command).job_id
    except (FailedJobError, FailedSubmissionError) as error:
        raise _Refusal(" ".join(str(error).split())) from None


_SETUP = (
    f'echo "{START}${{SLURM_RESTART_COUNT:-0}} on $SLURM_JOB_NODELIST"',
    # srun of 22.05 to 23.02 does not take the number of cores from sbatch.
    'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
    'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
)


def _exports(environment: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


def job_name(plan: JobPlan, folder: ExperimentFolder, submission: str) -> str:
    """Who it is, and the submission: by that a submitter that was killed finds its job again."""
    alone = plan.runs[0].id if len(plan.runs) == 1 else folder.path.name
    what = plan.stage if len(plan.runs) == 1 else plan.kind
    who = alone if what == "run" else f"{alone}-{what}"
    return f"{who[:_LONGEST_NAME]}.{submission}"


def _dependency(plan: JobPlan, after: Sequence[str]) -> str | None:
    if not after:
        return None
    how = "afterok"
    if plan.stage == "report":
        how = "afterany"
    elif plan.stage == "evaluate" and plan.is_array:  # element by element: whatever became of the others
        how = "aftercorr"
    return f"{how}:{':'.join(after)}"


def _refusal(said: str) -> str:
    """What sbatch says, of all that submitit says about it."""
    _, found, rest = said.rpartition("sbatch: error: ")
    return (rest if found else said)[:300]
