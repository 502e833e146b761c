"""One attempt at a run: its beginning and its end in the ledger and in `outcome.json`, whatever the end is."""

from __future__ import annotations

import logging
import time
import traceback
from types import TracebackType
from typing import Any, Self

from lora_dist.errors import Interrupted, LoraDistError, UserError
from lora_dist.store.attempts import RANK_LOST, close_lost_attempt
from lora_dist.store.folders import RunFolder
from lora_dist.store.ledger import ENDED, STARTED, write_event
from lora_dist.team import Team
from lora_dist.training.stop import StopFlag
from lora_dist.world import current_job

log = logging.getLogger(__name__)
_FIRST_SAYS_IT_S = 2.0


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
        self.folder.heartbeat.unlink(missing_ok=True)
        self.folder.outcome.unlink(missing_ok=True)
        job = current_job()
        write_event(
            self.folder.experiment.ledger,
            self.folder.id,
            STARTED,
            ranks=self.team.world.size,
            **(job.facts() if job else {}),
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        outcome, message, facts = _end_of(error)
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


def _end_of(error: BaseException | None) -> tuple[str, str, dict[str, Any]]:
    """Outcome, message and facts for `outcome.json`."""
    if error is None:
        return "completed", "", {}
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return "interrupted", str(error) or "stopped from the keyboard", {}
    if isinstance(error, UserError):
        return "refused", str(error), {"problems": [vars(problem) for problem in error.problems]}
    if isinstance(error, LoraDistError):
        return "failed", str(error), {}
    said = traceback.format_exception_only(error)[-1].strip()
    lost = any(sign in said for sign in ("Connection closed by peer", "Connection reset by peer", "gloo/transport"))
    return "failed", f"{RANK_LOST} (killed, or out of memory); see the log" if lost else said, {}
