"""What lower floors say in an experiment's keys, said in the options of a command that has none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

from lora_dist.errors import Problem, Refused, UserError

TRUST = "set model.trust_remote_code=true if you trust it"
"""The fix for a model that comes with code of its own: such a command never runs it, and has another fix."""


@contextlib.contextmanager
def in_options(base: str, fixes: Mapping[str, str]) -> Iterator[None]:
    """Name the option `base` where the model's key would be named, and put other words into the fixes.

    Args:
        fixes: parts of fixes, and what to say instead.
    Raises:
        UserError: the one that came, in these words.
    """
    keys = {"model.path": base, "model.revision": "--revision"}

    def said(problem: Problem) -> Problem:
        fix = problem.fix
        for theirs, ours in fixes.items():
            fix = fix.replace(theirs, ours)
        return replace(problem, key=keys.get(problem.key, problem.key), fix=fix)

    try:
        yield
    except Refused as error:
        raise Refused(map(said, error.problems)) from error
    except UserError as error:
        (problem,) = map(said, error.problems)
        raise type(error)(key=problem.key, problem=problem.problem, fix=problem.fix) from error
