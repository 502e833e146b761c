"""Arms x points x grid x seeds -> runs, with every mistake reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from lora_dist.config.classification import classification_problems
from lora_dist.config.experiment import SECTIONS, Arm, Experiment, Run
from lora_dist.config.limits import limit_problems
from lora_dist.config.problems import nearest, problems_of, valid_keys
from lora_dist.config.pruning import FIELDS_OF_PRUNING
from lora_dist.config.sections import FIELDS_OF_KIND, LEARNING_RATE_OF_KIND
from lora_dist.errors import Problem, raise_together

ONLY_ARM = "run"
KINDS = {"method": FIELDS_OF_KIND, "prune": FIELDS_OF_PRUNING}
"""Sections whose `kind` says which of their other settings mean something."""
_EXCLUDE_EACH_OTHER = {"sparsity": "pattern", "pattern": "sparsity"}


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
            if found := list(classification_problems(run)):
                problems += [
                    replace(problem, key=f"{where}.{problem.key}" if where else problem.key) for problem in found
                ]
                break
            runs.append(_with_zeros_kept(_with_learning_rate(run)))
            problems += _placed(limit_problems(run), where, problems)
            if not run.trains:  # nothing random happens in a run that trains nothing: one seed says it all
                break
    return runs


def _placed(found: Iterable[Problem], where: str, known: Sequence[Problem]) -> list[Problem]:
    """Problems under the key of their arm, without those that another point or seed of it has had."""
    placed = [replace(problem, key=f"{where}.{problem.key}") if where else problem for problem in found]
    return [problem for problem in placed if problem not in known]


def _points(arm: Arm) -> Iterator[dict[str, Any]]:
    """Every combination of the arm's points and grid, as dotted settings."""
    for point in arm.points or [{}]:
        for values in itertools.product(*arm.grid.values()):
            yield {**point, **dict(zip(arm.grid, values, strict=True))}


def _merge(experiment: Experiment, arm: Arm, point: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """The sections of one run: the experiment's, under the arm's, under the point's."""
    sections: dict[str, Any] = {}
    for name in SECTIONS:
        own = getattr(experiment, name)
        sections[name] = own.model_dump(mode="json") if own is not None else {}
        above = getattr(arm, name)
        sections[name] = {} if above is None else _over(sections[name], above)
    settings: dict[str, dict[str, Any]] = {}
    for key, value in point.items():
        section, _, name = key.partition(".")
        settings.setdefault(section, {})[name] = value
    for section, given in settings.items():
        sections[section] = _over(sections[section], given)
    return sections | {"prune": sections["prune"] or None}


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the settings of `above`; a dotted name, and a part of the calibration, leave the rest as it was.

    A sparsity that is given takes the place of an inherited pattern, and a pattern that of a sparsity.
    """
    merged = dict(below)
    for name, value in above.items():
        outer, _, inner = name.partition(".")
        if inner:
            merged[outer] = {**(merged.get(outer) or {}), inner: value}
        elif name == "calibration" and isinstance(value, dict):
            merged[name] = {**(merged.get(name) or {}), **value}
        else:
            merged[name] = value
        rival = _EXCLUDE_EACH_OTHER.get(name)
        if rival and value is not None and above.get(rival) is None:
            merged.pop(rival, None)
    return merged


def _with_learning_rate(run: Run) -> Run:
    """The run with its method's default rate written out, so that its folder says what was used."""
    if run.train.learning_rate is not None or not run.trains:
        return run
    train = run.train.model_copy(update={"learning_rate": LEARNING_RATE_OF_KIND[run.method.kind]})
    return run.model_copy(update={"train": train})


def _with_zeros_kept(run: Run) -> Run:
    """The run with its choice about the zeros of a pruned base written out: what it means is part of its identity."""
    if run.method.preserve_sparsity is not None or "preserve_sparsity" not in FIELDS_OF_KIND[run.method.kind]:
        return run
    if not run.base_is_pruned:
        return run
    return run.model_copy(update={"method": run.method.model_copy(update={"preserve_sparsity": True})})


def _arm_problems(experiment: Experiment, arm: Arm, where: str) -> Iterator[Problem]:
    for origin, key in _dotted_keys(arm):
        section, _, name = key.partition(".")
        *path, last = [section, *name.split(".")]
        at = f"{where}.{origin}"
        if section not in SECTIONS or not name:
            yield Problem(at, f"'{key}' is not a setting of a run", nearest(key, _all_settings()))
        elif last not in valid_keys(path):
            yield Problem(at, f"unknown key '{name}' in {section}", nearest(name, valid_keys([section])))
    for section, fields in KINDS.items():
        yield from _unused_settings(experiment, arm, where, section, fields)


def _unused_settings(
    experiment: Experiment, arm: Arm, where: str, section: str, fields: dict[str, set[str]]
) -> Iterator[Problem]:
    """Settings that the arm gives, and that mean nothing for its kind."""
    own, inherited = getattr(arm, section) or {}, getattr(experiment, section)
    kind = own.get("kind", inherited.kind if inherited else None)
    if not isinstance(kind, str) or kind not in fields:
        return
    for origin, key in _dotted_keys(arm):
        name = key.removeprefix(f"{section}.").partition(".")[0]
        if key.startswith(f"{section}.") and name in valid_keys([section]) and name not in fields[kind]:
            fix = f"remove it; {kind} has {', '.join(sorted(fields[kind] - {'kind'})) or 'no settings of its own'}"
            yield Problem(f"{where}.{origin}", f"{section}.{name} means nothing for {kind}", fix)


def _dotted_keys(arm: Arm) -> Iterator[tuple[str, str]]:
    """Each setting that an arm gives: where it stands in the arm, and its dotted key."""
    for section in SECTIONS:
        for name in getattr(arm, section) or {}:
            yield f"{section}.{name}", f"{section}.{name}"
    for index, point in enumerate(arm.points or []):
        for key in point:
            yield f"points[{index}].{key}", key
    for key in arm.grid:
        yield f"grid.{key}", key


def _all_settings() -> list[str]:
    return [f"{section}.{name}" for section in SECTIONS for name in valid_keys([section])]


def _twins(runs: list[Run]) -> Iterator[Problem]:
    """Two runs with one id would share a folder: a value repeated in a grid, points or seeds."""
    first: dict[str, Run] = {}
    for run in runs:
        twin = first.setdefault(run.id, run)
        if twin is not run:
            yield Problem(f"arms.{run.arm}", f"two of its runs are the same ({run.label})", "remove the repeated value")
