"""Why a run's job did not end well, by its outcome, its job's log and the log of the rank that failed first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lora_dist.dispatch.job_log import JobLog, plain_lines, read_job_log
from lora_dist.store.attempts import OUT_OF_MEMORY_CAUSE, RANK_LOST
from lora_dist.store.failures import FailureReport
from lora_dist.store.folders import ExperimentFolder, RunFolder
from lora_dist.store.heartbeat import read_beat

_TAIL_BYTES = 65_536
_LINES = 12
_KILLED = ("Killed", "Segmentation fault", "Bus error", "Aborted", "Floating point exception", "Illegal instruction")
_UNSAID = ("", "failed", "lost", "signal")  # causes that a log may know better


def failure_of(
    folder: RunFolder, job: str, cause: str, stage: str = "", step: int = 0, steps: int = 0
) -> FailureReport:
    """What a run that did not end well tells of it. Reads the ends of two logs.

    Args:
        job: 123, or 123_4; empty for a run without one.
        cause: in the word of `Verdict.cause`.
        stage: how far it was by the ledger, where no heartbeat of this job is left; `step` and `steps` as well.
    """
    experiment, since = folder.experiment, _submitted_at(folder.experiment, job)
    told = folder.read_outcome() if _is_since(folder.outcome, since) else None
    beat = read_beat(folder.heartbeat) if _is_since(folder.heartbeat, since) else None
    said = job_log_of(experiment, job)
    rank, node = _first_to_fail(told or {}, said)
    if cause == "dependency":  # it has no log of its own: nothing of it has begun
        return FailureReport(None, "", stage, step, steps, cause, (), "")
    log = _log_of(folder, job, rank, since, by_slurm=bool(said.lost_nodes) and rank is None)
    return FailureReport(
        rank=rank,
        node=node,
        stage=beat.stage if beat else stage,
        step=beat.done if beat else step,
        steps=beat.total if beat else steps,
        cause=_cause(cause, told or {}, said),
        lines=plain_lines(tail_of(log), _LINES) if log else (),
        log=str(log or ""),
    )


def job_log_of(experiment: ExperimentFolder, job: str) -> JobLog:
    """What SLURM has printed into the log of a job, the last time that it was started."""
    return read_job_log(tail_of(log_of_job(experiment, job))) if job else JobLog()


def log_of_job(experiment: ExperimentFolder, job: str, rank: int = 0) -> Path:
    """Where a job's script, srun and rank 0 print, or another rank until it has a log in the run's folder."""
    return experiment.jobs / f"{job}_{rank}_log.out"


def tail_of(path: Path) -> str:
    """The end of a text file, 64 KiB at most, from the beginning of a line; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            found = file.read()
    except OSError:
        return ""
    if size > _TAIL_BYTES:
        found = found.partition(b"\n")[2] or found
    return found.decode(errors="replace")


def _submitted_at(experiment: ExperimentFolder, job: str) -> float:
    """When a job was submitted, by its script and in the time of the disk; 0 where that is not known."""
    try:
        return (experiment.jobs / f"{job.partition('_')[0]}_submission.sh").stat().st_mtime
    except OSError:
        return 0.0


def _is_since(path: Path, since: float) -> bool:
    """Whether a file was written after that: what is older is another job's."""
    try:
        return path.stat().st_mtime >= since
    except OSError:
        return False


def _first_to_fail(told: dict[str, Any], said: JobLog) -> tuple[int | None, str]:
    """Who failed first, and on which node: by what a rank says of itself, or else by srun."""
    its_own = told.get("outcome") in ("failed", "refused") and not _has_lost_another(told)
    if its_own and isinstance(told.get("rank"), int):
        return told["rank"], str(told.get("host") or "")
    others = [end for end in said.ends if not (_has_lost_another(told) and end.rank == told.get("rank"))]
    if said.is_out_of_memory:
        others.sort(key=lambda end: end.how != "Out Of Memory")
    if said.lost_nodes:
        ranks = [end.rank for end in others if end.node == said.lost_nodes[0]]
        return (ranks[0] if ranks else None), said.lost_nodes[0]
    return (others[0].rank, others[0].node) if others else (None, "")


def _has_lost_another(told: dict[str, Any]) -> bool:
    return str(told.get("message") or "").startswith(RANK_LOST)


def _cause(cause: str, told: dict[str, Any], said: JobLog) -> str:
    if said.is_out_of_memory:
        return OUT_OF_MEMORY_CAUSE
    if cause not in _UNSAID:
        return cause
    if said.lost_nodes or said.cancelled == "NODE FAILURE":
        return "node_fail"
    if told.get("cause"):
        return str(told["cause"])
    if told and not _has_lost_another(told):
        return cause or str(told.get("outcome") or "")
    if any(end.how.startswith(_KILLED) for end in said.ends):
        return "killed"
    return "rank_lost" if told else cause


def _log_of(folder: RunFolder, job: str, rank: int | None, since: float, *, by_slurm: bool) -> Path | None:
    """The log of a rank: its own in the run's folder, or what it printed before it had one, or the job's."""
    own = folder.log if not rank else folder.log.with_name(f"rank-{rank}.log")
    of_job = [log_of_job(folder.experiment, job, rank or 0), log_of_job(folder.experiment, job)] if job else []
    candidates = [*reversed(of_job)] if by_slurm else [*([own] if _is_since(own, since) else []), *of_job]
    return next((path for path in candidates if path.is_file() and path.stat().st_size), None)
