"""One attempt at a run: its beginning and its end in the ledger and in `outcome.json`, whatever the end is."""

from __future__ import annotations

import logging
import time
import traceback
from types import TracebackType
from typing import Any, Self

from lora_dist.errors import ConfigError, Interrupted, LoraDistError, UserError
from lora_dist.store.attempts import (
    LESS_MEMORY,
    OUT_OF_MEMORY,
    OUT_OF_MEMORY_CAUSE,
    RANK_LOST,
    close_lost_attempt,
    idle_restarts,
)
from lora_dist.store.folders import RunFolder
from lora_dist.store.histories import history_of
from lora_dist.store.ledger import ENDED, STARTED, write_event
from lora_dist.team import Team
from lora_dist.training.checkpoints import newest_step
from lora_dist.training.stop import StopFlag
from lora_dist.world import SlurmJob, current_job, this_node

log = logging.getLogger(__name__)
_FIRST_SAYS_IT_S = 2.0
MOST_RESTARTS = 5
"""How often in a row a job may be started and killed without its run getting any further. SLURM starts a job again
after each failure of a node, without an end."""
_NO_MEMORY = (
    "out of memory. Tried to allocate",  # CUDA, HIP, XPU
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",  # the system's, to a fork or a mapped file
)


class Attempt:
    """A block in which a run is worked on. Rank 0 writes; another rank only what rank 0 cannot know: its own error."""

    def __init__(self, folder: RunFolder, team: Team, stop: StopFlag) -> None:
        self.folder, self.team, self.stop = folder, team, stop
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self.team.first_does(self._begin)
        return self

    def _begin(self) -> None:
        close_lost_attempt(self.folder)
        job = current_job()
        if job is not None:
            refuse_idle_restarts(self.folder, job)
        self.folder.heartbeat.unlink(missing_ok=True)
        self.folder.outcome.unlink(missing_ok=True)
        write_event(
            self.folder.experiment.ledger,
            self.folder.id,
            STARTED,
            ranks=self.team.world.size,
            **(job.facts() if job else {}),
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        outcome, message, facts = end_of(error)
        facts = {"rank": self.team.world.rank, "host": this_node(), **facts}
        if outcome == "failed":
            log.error("the run failed", exc_info=error)
        if self.team.world.is_first:
            self._end(outcome, message, facts)
        elif outcome in ("failed", "refused"):
            self._tell_if_first_does_not(outcome, message, facts)
        if outcome in ("completed", "interrupted"):  # together, so that no launcher takes one that is ready for lost
            self.stop.end()
            self.team.leave()

    def _end(self, outcome: str, message: str, facts: dict[str, Any]) -> None:
        told = self.folder.read_outcome() if outcome == "failed" else None
        if told is None:
            self.folder.write_outcome(outcome, message, **facts)
        else:  # another rank has said why; what rank 0 met is that it was gone
            outcome = told["outcome"]
        seconds = time.perf_counter() - self._started
        write_event(self.folder.experiment.ledger, self.folder.id, ENDED, outcome=outcome, seconds=seconds)

    def _tell_if_first_does_not(self, outcome: str, message: str, facts: dict[str, Any]) -> None:
        deadline = time.monotonic() + _FIRST_SAYS_IT_S
        while time.monotonic() < deadline:
            if self.folder.read_outcome() is not None:
                return
            time.sleep(0.1)
        self.folder.write_outcome(outcome, f"on rank {self.team.world.rank}: {message}", **facts)


def refuse_idle_restarts(folder: RunFolder, job: SlurmJob) -> None:
    """Let no job be started for ever that is killed each time before its run gets any further.

    Raises:
        ConfigError: it has been, `MOST_RESTARTS` times in a row; the run's outcome says so too.
    """
    history = history_of(folder.experiment.ledger, folder.id)
    idle = idle_restarts(history, job.id, newest_step(folder.checkpoints))
    if len(idle) < MOST_RESTARTS:
        return
    nodes = ", ".join(dict.fromkeys(attempt.nodes for attempt in idle if attempt.nodes))
    error = ConfigError(
        key="launch.slurm",
        problem=f"job {job.id} of {folder.id} was started {len(idle)} times and killed each time before it got any "
        f"further than step {idle[-1].first_step:,}; it ran on {nodes or 'nodes that are not known'}",
        fix=f"look at these nodes, name bad ones in launch.slurm.exclude, then type "
        f"`lora-dist retry {folder.experiment.path} {folder.id}`",
    )
    folder.write_outcome("refused", str(error), rank=0, host=this_node())
    raise error


def end_of(error: BaseException | None) -> tuple[str, str, dict[str, Any]]:
    """Outcome, message and facts for `outcome.json`, of the error that ended an attempt."""
    if error is None:
        return "completed", "", {}
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "interrupted", str(error) or "stopped from the keyboard", {}
    if isinstance(error, UserError):
        return "refused", str(error), {"problems": [vars(problem) for problem in error.problems]}
    facts = {"rank": error.rank} if isinstance(error, LoraDistError) and error.rank is not None else {}
    known = isinstance(error, LoraDistError)
    said = str(error) if known else traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, MemoryError) or any(sign in said for sign in _NO_MEMORY):
        return "failed", f"{OUT_OF_MEMORY}: {said}; {LESS_MEMORY}", {**facts, "cause": OUT_OF_MEMORY_CAUSE}
    lost = any(sign in said for sign in ("Connection closed by peer", "Connection reset by peer", "gloo/transport"))
    return "failed", f"{RANK_LOST} (killed, or out of memory); see the log" if lost and not known else said, facts
