"""SLURM's words: the fields that are asked of squeue and sacct, and what their replies mean.

Written for the formats of 22.05, whose sacct has no column of restarts: the lines of one job are its restarts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

# Free text comes last: a '|' in it costs nothing.
SQUEUE_FORMAT = "%i|%T|%N|%M|%L|%S|%r|%j|%k"
SACCT_FIELDS = "JobID,State,ExitCode,ElapsedRaw,AllocTRES,AllocNodes,NodeList,Start,End,JobName"

RUNNING = frozenset({"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"})
ENDED = frozenset(
    {"COMPLETED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY", "FAILED", "DEADLINE", "CANCELLED"}
)
_WAITING = {"PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "STOPPED"}
_STATES = _WAITING | RUNNING | ENDED
_NOT_A_NUMBER = ("", "N/A", "NONE", "UNKNOWN", "INVALID", "UNLIMITED", "NOT_SET", "(NULL)")
_ARRAY = re.compile(r"(?P<job>\d+)_\[(?P<indices>[^\]%]*)(?:%\d+)?\]?")
_NODES = re.compile(r"(?:[^,\[\]]|\[[^\]]*\]?)+")
_GPUS = re.compile(r"gres/gpu(?::[^=,]+)?=(\d+)")
_ALL_GPUS = re.compile(r"gres/gpu=(\d+)")
CUT_OFF = "..."
"""Where SLURM cuts a list of array elements; see `ids_in`."""


@dataclass(frozen=True)
class Job:
    """What one line says of a job or of one element of an array."""

    id: str
    """123, or 123_4."""
    name: str
    state: str
    """One of SLURM's states, without what it may be followed by."""
    by: str = ""
    """Who cancelled it, as SLURM says it: by 1000."""
    reason: str = ""
    """Why it waits, or why it ended: Resources, DependencyNeverSatisfied, TimeLimit; empty where there is none."""
    nodes: str = ""
    """As SLURM writes a list of machines: gpu[03-05]."""
    elapsed_s: float = 0.0
    left_s: float | None = None
    """Until the time limit; None where there is none."""
    start: float | None = None
    """Seconds since the epoch; for a job that waits, when it may start."""
    end: float | None = None
    exit_code: str = ""
    """Exit code and signal, as in 1:0."""
    gpus: int | None = None
    """Over all machines; None where the cluster does not account for them."""
    comment: str = ""

    @property
    def runs(self) -> bool:
        """Whether its processes may be alive."""
        return self.state in RUNNING

    @property
    def has_ended(self) -> bool:
        """Whether SLURM is done with it. Whatever neither runs nor has ended waits, states not known here too."""
        return self.state in ENDED


def squeue_jobs(text: str) -> Iterator[Job]:
    """The jobs in a reply of squeue in `SQUEUE_FORMAT`; lines of another shape are passed over."""
    for line in text.splitlines():
        fields = line.split("|", 7)
        if len(fields) < 8:
            continue
        ids, state, nodes, elapsed, left, start, reason, rest = fields
        name, _, comment = rest.partition("|")
        word, by = state_of(state)
        job = Job(
            id=ids, name=name, state=word, by=by, reason=_word(reason), nodes=_word(nodes), comment=_word(comment),
            elapsed_s=seconds_of(elapsed) or 0.0, left_s=seconds_of(left), start=moment_of(start),
        )  # fmt: skip
        yield from (replace(job, id=one) for one in ids_in(ids))


def sacct_jobs(text: str) -> Iterator[Job]:
    """The jobs in a reply of sacct with `SACCT_FIELDS`, one for each time that a job was started."""
    for line in text.splitlines():
        fields = line.split("|", 9)
        if len(fields) < 10:
            continue
        ids, state, exit_code, elapsed, tres, _, nodes, start, end, name = fields
        word, by = state_of(state)
        job = Job(
            id=ids, name=name, state=word, by=by, nodes="" if nodes == "None assigned" else _word(nodes),
            elapsed_s=seconds_of(elapsed) or 0.0, start=moment_of(start), end=moment_of(end), exit_code=exit_code,
            gpus=gpus_in(tres),
        )  # fmt: skip
        yield from (replace(job, id=one) for one in ids_in(ids))


def ids_in(text: str) -> list[str]:
    """12_[0,3-7:2%2] as 12_0, 12_3, 12_5, 12_7; any other id as it is.

    Where SLURM has cut the list off, `12_...` stands for all elements that are not listed.
    """
    found = _ARRAY.fullmatch(text)
    if found is None:
        return [text]
    job, indices = found["job"], found["indices"]
    ids = []
    for part in indices.split(","):
        numbers, _, step = part.partition(":")
        low, _, high = numbers.partition("-")
        if low.isdecimal() and (not high or high.isdecimal()) and (not step or step.isdecimal()):
            ids += [f"{job}_{index}" for index in range(int(low), int(high or low) + 1, int(step or 1) or 1)]
        else:
            ids.append(f"{job}_{CUT_OFF}")
    return ids


def nodes_in(text: str) -> list[str]:
    """node[01-03,7],gpu5 as node01, node02, node03, node7, gpu5; a name without brackets as it is."""
    found: list[str] = []
    for item in _NODES.findall(text):
        before, bracket, rest = item.partition("[")
        inside, closed, after = rest.partition("]")
        if not bracket or not closed:
            found.append(item)
            continue
        for part in inside.split(","):
            low, _, high = part.partition("-")
            ends = nodes_in(after) if after else [""]
            if not low.isdecimal() or (high and not high.isdecimal()):
                found.append(item)
                break
            numbers = range(int(low), int(high or low) + 1)
            found += [f"{before}{number:0{len(low)}d}{end}" for number in numbers for end in ends]
    return found


def state_of(text: str) -> tuple[str, str]:
    """`CANCELLED by 0` as CANCELLED and `by 0`; `COMPLETED+` and cut-off words (`OUT_OF_ME+`) as the whole word."""
    word, _, by = text.strip().partition(" ")
    word = word.rstrip("+").upper()
    if word not in _STATES:
        whole = [state for state in _STATES if state.startswith(word)] if len(word) > 1 else []
        word = whole[0] if len(whole) == 1 else word
    return word, by.strip()


def seconds_of(text: str) -> float | None:
    """A duration in seconds: 90 (sacct's raw seconds), 1:30, 2:01:30 or 3-02:01:30; None for no duration."""
    text = text.strip()
    if text.upper() in _NOT_A_NUMBER:
        return None
    days, sign, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts) or (sign and not days.isdecimal()):
        return None
    if sign:  # D-H, D-H:M and D-H:M:S count from the left
        parts += ["0"] * (3 - len(parts))
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return float(total + (int(days) * 86_400 if sign else 0))


def moment_of(text: str) -> float | None:
    """A time as seconds since the epoch or as 2024-01-31T12:00:00 of this machine's zone; None for no time."""
    text = text.strip()
    if text.isdecimal():
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def gpus_in(tres: str) -> int | None:
    """GPUs in a list such as billing=2,cpu=2,gres/gpu:a100=2,gres/gpu=2; None where it has none.

    A cluster counts them only if AccountingStorageTRES has gres/gpu, so none here need not mean none.
    """
    total = _ALL_GPUS.search(tres)
    if total:
        return int(total[1])
    by_type = [int(number) for number in _GPUS.findall(tres)]
    return sum(by_type) if by_type else None


def _word(text: str) -> str:
    return "" if text.strip() in ("None", "(null)", "N/A", "n/a") else text.strip()
