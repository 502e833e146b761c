"""How what happens before the runs is told: mistakes under the key that the user wrote, progress by its stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lora_dist.config.experiment import SECTIONS, Run
from lora_dist.errors import Problem

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, text)."""


def placed(problem: Problem, run: Run, runs: Sequence[Run]) -> Problem:
    """`problem` under the key of the run's arm, unless all runs have the same value there: then it is said once."""
    section, _, name = problem.key.partition(".")
    name = name.partition(".")[0]
    if section not in SECTIONS or not hasattr(getattr(run, section), name):
        return problem
    mine = getattr(getattr(run, section), name)
    if all(getattr(getattr(other, section), name) == mine for other in runs):
        return problem
    return replace(problem, key=f"arms.{run.arm}.{problem.key}")


def as_stage(progress: Progress, stage: str) -> Callable[[int, int, str], None]:
    """Progress of one stage, for what knows of no stages."""
    return lambda done, total, text: progress(stage, done, total, text)
