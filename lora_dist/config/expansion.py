"""Arms x points x grid x seeds -> runs, with every mistake reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from lora_dist.config.experiment import SECTIONS, Arm, Experiment, Run
from lora_dist.config.problems import nearest, problems_of, valid_keys
from lora_dist.config.sections import FIELDS_OF_KIND, LEARNING_RATE_OF_KIND, MethodSection
from lora_dist.errors import Problem, raise_together

OVERRIDABLE = tuple(section for section in SECTIONS if section != "prune")
ONLY_ARM = "run"


def expand(experiment: Experiment) -> list[Run]:
    """The runs of an experiment, in the order of its file; an experiment without arms is one arm.

    Raises:
        Refused: a setting of an arm, a point or a grid is wrong, or two runs come out the same.
    """
    arms = {name: arm or Arm() for name, arm in experiment.arms.items()} or {ONLY_ARM: Arm()}
    problems: list[Problem] = []
    runs: list[Run] = []
    for name, arm in arms.items():
        where = f"arms.{name}" if experiment.arms else ""
        arm_problems = list(_arm_problems(experiment, arm, where))
        problems += arm_problems
        if not arm_problems:
            runs += _expand_arm(experiment, name, arm, where, problems)
    problems += _twins(runs)
    raise_together(problems)
    return runs


def _expand_arm(experiment: Experiment, name: str, arm: Arm, where: str, problems: list[Problem]) -> list[Run]:
    runs: list[Run] = []
    for point in _points(arm):
        sections = _merge(experiment, arm, point)
        for seed in experiment.seeds:
            try:
                run = Run.model_validate({"arm": name, "point": point, "seed": seed, **sections})
            except ValidationError as error:
                problems += problems_of(error, Run, prefix=f"{where}." if where else "")
                break
            runs.append(_with_learning_rate(run))
            if not run.trains:  # nothing random happens in a zero-shot run: one seed says it all
                break
    return runs


def _points(arm: Arm) -> Iterator[dict[str, Any]]:
    """Every combination of the arm's points and grid, as dotted settings."""
    for point in arm.points or [{}]:
        for values in itertools.product(*arm.grid.values()):
            yield {**point, **dict(zip(arm.grid, values, strict=True))}


def _merge(experiment: Experiment, arm: Arm, point: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of one run: the experiment's, under the arm's, under the point's."""
    sections: dict[str, Any] = {
        section: getattr(experiment, section).model_dump(mode="json") | getattr(arm, section) for section in OVERRIDABLE
    }
    for key, value in point.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    return sections


def _with_learning_rate(run: Run) -> Run:
    """The run with its method's default rate written out, so that its folder says what was used."""
    if run.train.learning_rate is not None or not run.trains:
        return run
    train = run.train.model_copy(update={"learning_rate": LEARNING_RATE_OF_KIND[run.method.kind]})
    return run.model_copy(update={"train": train})


def _arm_problems(experiment: Experiment, arm: Arm, where: str) -> Iterator[Problem]:
    for origin, key in _dotted_keys(arm):
        section, _, name = key.partition(".")
        at = f"{where}.{origin}"
        if section not in OVERRIDABLE or not name:
            yield Problem(at, f"'{key}' is not a setting of a run", nearest(key, _all_settings()))
        elif name not in valid_keys([section]):
            yield Problem(at, f"unknown key '{name}' in {section}", nearest(name, valid_keys([section])))
    kind = arm.method.get("kind", experiment.method.kind)
    used = FIELDS_OF_KIND.get(kind, set(MethodSection.model_fields)) if isinstance(kind, str) else set()
    for origin, key in _dotted_keys(arm):
        name = key.removeprefix("method.")
        if used and name != key and name in MethodSection.model_fields and name not in used:
            fix = f"remove it; {kind} has {', '.join(sorted(used - {'kind'})) or 'no settings of its own'}"
            yield Problem(f"{where}.{origin}", f"method.{name} means nothing for {kind}", fix)


def _dotted_keys(arm: Arm) -> Iterator[tuple[str, str]]:
    """Each setting that an arm gives: where it stands in the arm, and its dotted key."""
    for section in OVERRIDABLE:
        for name in getattr(arm, section):
            yield f"{section}.{name}", f"{section}.{name}"
    for index, point in enumerate(arm.points or []):
        for key in point:
            yield f"points[{index}].{key}", key
    for key in arm.grid:
        yield f"grid.{key}", key


def _all_settings() -> list[str]:
    return [f"{section}.{name}" for section in OVERRIDABLE for name in valid_keys([section])]


def _twins(runs: list[Run]) -> Iterator[Problem]:
    """Two runs with one id would share a folder: a value repeated in a grid, points or seeds."""
    first: dict[str, Run] = {}
    for run in runs:
        twin = first.setdefault(run.id, run)
        if twin is not run:
            yield Problem(f"arms.{run.arm}", f"two of its runs are the same ({run.label})", "remove the repeated value")
