"""What SLURM prints into a job's log when its ranks do not end well: who went first, where, and what took them.

Pure: texts in, facts out. The words are those of 22.05 (`slurmstepd-node1: error: ...`), and of versions before and
after it as their users' logs show them; see tests/slurm_logs.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lora_dist.dispatch.scheduler_words import nodes_in

START = "lora-dist: start "
"""How the line begins that a job's script prints first: the log of a job that is started again goes on in one file."""
TERMINATED = "Terminated"
"""srun's word for tasks that it ended itself, because another one had ended badly."""

_SPEAKERS = ("srun: ", "slurmstepd", "[")
_DAEMON = r"(?:\[[^\]]+\] )?slurmstepd(?:-[^:\s]+)?: (?:error: )?"
_TASKS = re.compile(r"srun: error: (?P<nodes>\S+): tasks? (?P<ranks>[\d,-]+): (?P<how>.+)")
# A launch that fails for its credential is the whole cluster's trouble (clocks, munge), or that of a job started again.
_LOST_NODE = re.compile(
    r"srun: error: (?:Node failure on|Task launch for .* failed on node) (?P<nodes>[^\s:]+)(?!.*credential)"
)
_OUT_OF_MEMORY = re.compile(_DAEMON + r"Detected [1-9]\d* oom[-_]kill event|srun: error: .*: Out Of Memory\s*$")
_CANCELLED = re.compile(_DAEMON + r"\*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ DUE TO (?P<why>[A-Z ]+)")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


@dataclass(frozen=True)
class TaskEnd:
    """A rank that did not end well, in srun's words."""

    rank: int
    """The lowest, where srun names several at once."""
    node: str
    how: str
    """Killed, Out Of Memory, Exited with exit code 1, ..."""


@dataclass(frozen=True)
class JobLog:
    """What a log says of the last time that its job was started."""

    ends: tuple[TaskEnd, ...] = ()
    """In the order in which srun saw them, without those that it ended itself."""
    lost_nodes: tuple[str, ...] = ()
    """Nodes that srun says have failed."""
    is_out_of_memory: bool = False
    """Whether the kernel's out-of-memory killer ended a process of it."""
    cancelled: str = ""
    """Why SLURM ended it: NODE FAILURE, TIME LIMIT, PREEMPTION; empty where it does not say."""


def read_job_log(text: str) -> JobLog:
    """What the log of a job says of its newest start."""
    ends: list[TaskEnd] = []
    is_out_of_memory, cancelled = False, ""
    start = last_start(text)
    for line in _of_slurm(start):
        is_out_of_memory = is_out_of_memory or _OUT_OF_MEMORY.match(line) is not None
        if found := _TASKS.match(line):
            how = found["how"].strip()
            if how != TERMINATED:
                lowest = int(re.split("[,-]", found["ranks"].strip(",-") or "0")[0])
                ends.append(TaskEnd(lowest, next(iter(nodes_in(found["nodes"])), ""), how))
        elif found := _CANCELLED.match(line):
            cancelled = found["why"].strip()
    return JobLog(tuple(ends), lost_nodes(start), is_out_of_memory, cancelled)


def lost_nodes(text: str) -> tuple[str, ...]:
    """The nodes that have failed under a job, by srun's word, over all its starts in this text."""
    found = (_LOST_NODE.match(line) for line in _of_slurm(text))
    return tuple(dict.fromkeys(node for match in found if match for node in nodes_in(match["nodes"])))


def _of_slurm(text: str) -> list[str]:
    """The lines that may be SLURM's own, as opposed to a program's: few, of many."""
    return [line for line in text.splitlines() if line.startswith(_SPEAKERS)]


def last_start(text: str) -> str:
    """The part of a job's log that its newest start wrote; all of it where no start is marked."""
    before, mark, rest = text.rpartition(START)
    return rest if mark and (not before or before.endswith("\n")) else text


def plain_lines(text: str, most: int, longest: int = 300) -> tuple[str, ...]:
    """The last `most` lines that say something, without what would steer a terminal.

    Of a line that was drawn over again and again, as progress bars are, the last state.
    """
    lines: list[str] = []
    for line in reversed(text.split("\n")):
        shown = _ESCAPES.sub("", line).rstrip().rpartition("\r")[2].expandtabs(4)
        clean = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in shown).rstrip()
        if clean:
            lines.append(clean if len(clean) <= longest else clean[: longest - 3] + "...")
        if len(lines) == most:
            break
    return tuple(reversed(lines))
