"""GPU-hours of a run: what it was given, and how much of that came to nothing.

The rule, over every start of every job of a run, the GPUs that it held times how long it held them:

- an attempt that completed, or that saved and was interrupted, is useful, and so are the one that runs now and the
  newest one of a run that has its record, whether or not it lived to write down its end;
- an attempt that ended in any other way (killed, failed, refused, without a word) is useful in the share of its
  steps that a later attempt went on from, where the ledger knows both; the rest of it is lost;
- a start whose worker never began is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_dist.dispatch.elements import Element
from lora_dist.dispatch.scheduler_words import Job
from lora_dist.store.histories import Attempt, History

_SECONDS_PER_HOUR = 3600.0
_CLOCKS_AGREE_S = 5.0
_USEFUL = ("completed", "interrupted")
_NOT_LOST = ("RUNNING", "COMPLETING", "COMPLETED")


@dataclass(frozen=True)
class GpuHours:
    """GPUs x hours of one run, over all its attempts."""

    useful: float = 0.0
    lost: float = 0.0
    unseen_starts: int = 0
    """Starts of its jobs that have no attempt in the ledger: they ended before their worker began."""


def gpu_hours(elements: Sequence[Element], history: History, running_seconds: float, *, is_completed: bool) -> GpuHours:
    """What the run was given, by the accounts where there are any, and else by the ledger.

    Args:
        running_seconds: how long the attempt that has not ended has run, or ran until its last heartbeat.
        is_completed: whether the run has its record.
    """
    useful = lost = 0.0
    unseen = 0
    counted: set[int] = set()
    for element in elements:
        starts = _starts(element)
        for restart, start in enumerate(starts):
            mine = _attempts_in(start, restart, element, history)
            counted.update(mine)
            is_over = start.has_ended or start is not starts[-1]  # sacct may say REQUEUED of an earlier one
            is_live = not is_over and element.live is not None
            has_made_it = is_completed and len(history.attempts) - 1 in mine
            is_shared_work = element.submission.stage == "prepare" and start.state in _NOT_LOST  # nobody's attempt
            share = _share(history, mine, is_live or has_made_it or is_shared_work)
            unseen += bool(not mine and is_over and start.start is not None and not is_shared_work)
            gpu_seconds = 0.0 if element.is_shared else _gpus(start, element, history, mine) * start.elapsed_s
            useful, lost = useful + share * gpu_seconds, lost + (1 - share) * gpu_seconds
    has_live = any(element.live and element.live.runs for element in elements)
    for index, attempt in enumerate(history.attempts):
        if index in counted or not attempt.gpus:
            continue
        is_newest = attempt is history.last
        seconds = attempt.seconds if attempt.end else running_seconds if is_newest else 0.0
        is_useful = is_newest and (is_completed or (has_live and not attempt.end))
        share = _share(history, [index], is_useful)
        useful, lost = useful + share * attempt.gpus * seconds, lost + (1 - share) * attempt.gpus * seconds
    return GpuHours(useful / _SECONDS_PER_HOUR, lost / _SECONDS_PER_HOUR, unseen)


def _starts(element: Element) -> Sequence[Job]:
    """Each start of a job, by sacct. squeue knows the newest alone, so it stands in only where sacct has none."""
    if element.starts:
        return element.starts
    return [element.queued] if element.queued and element.queued.elapsed_s else []


def _attempts_in(start: Job, restart: int, element: Element, history: History) -> list[int]:
    """Which attempts ran in this start of a job: by what they say of it, or else by the clock."""
    if not element.starts:  # squeue knows the newest start alone, whose worker may not have begun
        begun = [attempt for attempt in history.attempts if attempt.started >= (start.start or 0.0) - _CLOCKS_AGREE_S]
        restart = max((one.restart for one in begun if one.job and element.has_started(one)), default=-1)
    return [
        index
        for index, attempt in enumerate(history.attempts)
        if (element.has_started(attempt) and attempt.restart == restart if attempt.job else _is_during(attempt, start))
    ]


def _is_during(attempt: Attempt, start: Job) -> bool:
    if start.start is None or not start.elapsed_s:
        return False
    end = start.end or start.start + start.elapsed_s
    return start.start - _CLOCKS_AGREE_S <= attempt.started <= end + _CLOCKS_AGREE_S


def _gpus(start: Job, element: Element, history: History, mine: Sequence[int]) -> int:
    """GPUs of one start: as accounted, else as the worker counted them, else as they were asked for."""
    if start.gpus is not None:
        return start.gpus
    told = [history.attempts[index].gpus for index in mine]
    return next((gpus for gpus in told if gpus is not None), None) or int(element.submission.resources.get("gpus") or 0)


def _share(history: History, mine: Sequence[int], is_useful: bool) -> float:
    """The share, from 0 to 1, of these attempts that is not lost."""
    if is_useful:
        return 1.0
    if not mine:
        return 0.0
    shares = [_useful_share(history, index) for index in mine]
    weights = [history.attempts[index].seconds or 1.0 for index in mine]
    return sum(share * weight for share, weight in zip(shares, weights, strict=True)) / sum(weights)


def _useful_share(history: History, index: int) -> float:
    attempt = history.attempts[index]
    if attempt.outcome in _USEFUL:
        return 1.0
    reached = _trained_to(attempt)
    # One that trained without resuming began anew: what is gone on from after it is its own.
    went_on = [later for later in history.attempts[index + 1 :] if later.has_resumed or _trained_to(later)]
    if not went_on or reached <= attempt.first_step:
        return 0.0
    return min(1.0, max(0.0, (went_on[0].first_step - attempt.first_step) / (reached - attempt.first_step)))


def _trained_to(attempt: Attempt) -> int:
    """The last step that an attempt is known to have come to; 0 where the ledger does not say."""
    told = ((attempt.end, "done"), (attempt.requeued, "step"))
    return max(int(event.get(key) or 0) if event.get("stage") == "train" else 0 for event, key in told)
