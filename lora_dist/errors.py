"""Everything lora_dist raises on purpose.

LoraDistError
├── UserError            the user can mend it: exit code 2, printed as lines, never with a traceback
│   ├── ConfigError      the experiment file, an override or an option
│   ├── DataError        the examples
│   ├── ModelError       the model, its tokenizer or its structure
│   ├── StorageError     a folder, a file or the disk under them
│   ├── ToolError        a program or package that is not there
│   └── Refused          several of the above at once
├── RunsFailed           exit code 3: some runs of an experiment failed
├── Interrupted          exit code 4: stopped by a signal; the same command resumes
├── NodeUnfit            a machine of a cluster lacks what a job was given
├── TrainingDiverged     a run's loss became NaN or infinite
└── WorkerCrashed        a run's process ended without saying why
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing the user can mend: where it is, what is wrong there, and the fix."""

    key: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}; {self.fix}" if self.fix else f"{self.key}: {self.problem}"


class LoraDistError(Exception):
    """Root of the tree; `exit_code` is what the shell ends with (see docs and `lora-dist --help`)."""

    exit_code = 1
    is_told_by_first = False
    """Of several ranks: rank 0 raised it too, and is the one to say so."""
    rank: int | None = None
    """Of several ranks: the one that met it, where another one raises it as well."""


class UserError(LoraDistError):
    """A mistake that the user can mend, named by `key` (a config key or a file), with its fix."""

    exit_code = 2

    def __init__(self, *, key: str, problem: str, fix: str) -> None:
        self.problems: tuple[Problem, ...] = (Problem(key, problem, fix),)
        super().__init__(str(self.problems[0]))

    def __reduce__(self):  # keyword-only arguments do not pickle by themselves
        problem = self.problems[0]
        return (_rebuild, (type(self), problem.key, problem.problem, problem.fix))


def _rebuild(kind: type[UserError], key: str, problem: str, fix: str) -> UserError:
    return kind(key=key, problem=problem, fix=fix)


class ConfigError(UserError):
    """The experiment file, an override or a command-line option is wrong."""


class DataError(UserError):
    """The examples are missing, empty, or do not have the shape that the task needs."""


class ModelError(UserError):
    """The model or its tokenizer is missing or does not have the structure that was asked for."""


class StorageError(UserError):
    """A folder or file cannot be read or written, or holds something else than expected."""


class ToolError(UserError):
    """A program or package that was asked for is not installed."""


class Refused(UserError):
    """Several problems found together, so that the user mends them in one go."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        LoraDistError.__init__(self, "\n".join(str(problem) for problem in self.problems))

    def __reduce__(self):
        return (Refused, (self.problems,))


def raise_together(problems: Iterable[Problem]) -> None:
    """Raise `Refused` when there is any problem; otherwise do nothing."""
    found = tuple(problems)
    if found:
        raise Refused(found)


class RunsFailed(LoraDistError):
    """Some runs of an experiment failed; the others are complete and reported."""

    exit_code = 3


class Interrupted(LoraDistError):
    """Stopped by a signal; what was finished is kept and the same command resumes."""

    exit_code = 4
    signal = 0
    """Which it was, where that is known."""

    def __init__(self, message: str = "interrupted: what is finished is kept; the same command resumes") -> None:
        super().__init__(message)


class NodeUnfit(LoraDistError):
    """A machine of a cluster lacks what a job was given, or cannot reach the others: elsewhere it may go well."""

    def __init__(self, node: str, problem: str) -> None:
        self.node, self.problem = node, problem
        super().__init__(f"{node}: {problem}")

    def __reduce__(self):
        return (NodeUnfit, (self.node, self.problem))


class TrainingDiverged(LoraDistError):
    """The loss of a run became NaN or infinite."""


class WorkerCrashed(LoraDistError):
    """A run's process was killed or ended without writing its outcome."""
