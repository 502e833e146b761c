"""What lower floors say in an experiment's keys, said in the options of a command that has none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from lora_dist.errors import Problem, Refused, UserError

_KEYS = {"model.path": "--base", "model.revision": "--revision"}
_FIXES = {
    "set model.trust_remote_code=true if you trust it": "merge it with peft's merge_and_unload",
    "choose another output_dir": "choose another --into",
    "choose an output_dir": "choose an --into",
    "name or output_dir": "--into",
    "correct the path": "correct the path, give --data, or --no-evaluate",
}


@contextlib.contextmanager
def in_options() -> Iterator[None]:
    """Name `--base` where the model's key would be named, and so on.

    Raises:
        UserError: the one that came, in these words.
    """
    try:
        yield
    except Refused as error:
        raise Refused(map(_said, error.problems)) from error
    except UserError as error:
        said = _said(error.problems[0])
        raise type(error)(key=said.key, problem=said.problem, fix=said.fix) from error


def _said(problem: Problem) -> Problem:
    fix = problem.fix
    for theirs, ours in _FIXES.items():
        fix = fix.replace(theirs, ours)
    return replace(problem, key=_KEYS.get(problem.key, problem.key), fix=fix)
