"""What holds of `status` whatever the scheduler says and whatever the ledger has lived through."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from status_cases import accounted, queued, snapshot_of

from lora_dist.dispatch.reconcile import Row, reconcile
from lora_dist.dispatch.scheduler import Snapshot
from lora_dist.dispatch.scheduler_words import ENDED, RUNNING
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Beat
from lora_dist.store.histories import History, histories_in
from lora_dist.store.ledger import submissions_in
from lora_dist.store.states import RunState

OFTEN = settings(max_examples=150, deadline=None)
NOW = 1_800_000_000.0
RUNS = ("sweep-00000001", "sweep-00000002", "sweep-00000003")
SUBMISSIONS = {"aaaa0001": "1", "aaaa0002": "2", "aaaa0003": "3"}
WAITING = ["PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "A_NEW_STATE"]
STATES = [*WAITING, *sorted(RUNNING), *sorted(ENDED), "CANCELLED by 1000", "OUT_OF_ME+"]
REASONS = ["None", "Resources", "Dependency", "DependencyNeverSatisfied", "JobHeldUser"]
DEAD = {"failed", "refused", "cancelled", "lost", "interrupted", "stale", "waiting"}

seconds = st.floats(0, 10_000).map(lambda ago: NOW - ago)
job_ids = st.sampled_from(
    [f"{job}{element}" for job in "1239" for element in ("", "_0", "_1", "_2", "_[0-2]", "_[1,...]")]
)
names = st.sampled_from([*SUBMISSIONS, "ffff0000"])


@st.composite
def replies(draw, *, queue_states=STATES) -> Snapshot:
    """squeue and sacct say anything, or nothing."""
    queue, accounts = "", ""
    for _ in range(draw(st.integers(0, 4))):
        state, reason = draw(st.sampled_from(queue_states)), draw(st.sampled_from(REASONS))
        queue += queued(state, reason, job=draw(job_ids), submission=draw(names), elapsed="5:00")
    for _ in range(draw(st.integers(0, 6))):
        elapsed, gpus = draw(st.sampled_from([0, 60, 90_000])), draw(st.sampled_from([None, 0, 8]))
        where = {"job": draw(job_ids), "submission": draw(names)}
        accounts += accounted(draw(st.sampled_from(STATES)), elapsed, gpus=gpus, start=int(draw(seconds)), **where)
    silent = draw(st.lists(st.sampled_from(["squeue", "sacct"]), unique=True))
    return snapshot_of(queue, draw(st.sampled_from([accounts, accounts, None])), now=NOW, silent=silent)


@st.composite
def ledgers(draw) -> list[dict]:
    """Events in any order, as often as you like, with or without any of their facts."""
    kinds = {
        "submitting": {"submission": names, "runs": st.lists(st.sampled_from(RUNS), unique=True),
                       "stage": st.sampled_from(["prune", "run", "report"]), "resources": st.just({"gpus": 2}),
                       "after": st.lists(names, max_size=2)},
        "submitted": {"submission": names, "job": st.sampled_from(list("123"))},
        "abandoned": {"submission": names, "why": st.just("refused")},
        "cancelled": {"submission": names},
        "started": {"run": st.sampled_from(RUNS), "job": job_ids, "restart": st.integers(0, 2),
                    "gpus": st.integers(0, 8)},
        "resumed": {"run": st.sampled_from(RUNS), "step": st.integers(0, 100)},
        "ended": {"run": st.sampled_from(RUNS), "seconds": st.floats(0, 9e4), "done": st.integers(0, 100),
                  "outcome": st.sampled_from(["completed", "refused", "interrupted", "failed", "lost"]),
                  "stage": st.sampled_from(["train", "evaluate"])},
        "requeued": {"run": st.sampled_from(RUNS), "cause": st.just("timeout"), "job": job_ids,
                     "step": st.none() | st.integers(0, 100), "steps": st.none() | st.just(100)},
    }  # fmt: skip
    events = []
    for kind in draw(st.lists(st.sampled_from(list(kinds)), max_size=20)):
        facts = {"event": kind, "time": draw(seconds)} | {name: draw(value) for name, value in kinds[kind].items()}
        gone = draw(st.lists(st.sampled_from(list(facts)), max_size=1))
        events.append({name: value for name, value in facts.items() if name not in gone})
    return json.loads(json.dumps(events))


@st.composite
def folders(draw, run: str, history: History) -> RunState:
    """A run's folder says anything that a folder can say."""
    state = draw(st.sampled_from(["waiting", "running", "completed", "failed", "refused", "interrupted", "stale"]))
    beat = Beat("train", draw(st.integers(0, 100)), draw(st.sampled_from([0, 100])), "", draw(seconds), NOW - 1e4, 1)
    beats = {"running": {"beat": beat}, "stale": {"last_beat": beat}}.get(state, {})
    return RunState(
        RunFolder(Path("runs/small") / run), state, draw(st.sampled_from(["", "why"])), history=history,
        attempts=len(history.attempts), seconds=history.ended_seconds + draw(st.floats(0, 1e4)),
        **(beats if draw(st.booleans()) else {}),
    )  # fmt: skip


@st.composite
def worlds(draw, **said) -> tuple[list[RunState], list[dict], Snapshot]:
    events = draw(ledgers())
    histories = histories_in(events)
    states = [draw(folders(run, histories.get(run, History()))) for run in RUNS]
    return states, events, draw(replies(**said))


def rows_of(world) -> list[Row]:
    states, events, snapshot = world
    return reconcile(states, submissions_in(events), snapshot)


@OFTEN
@given(worlds())
def test_whatever_happens_each_run_has_one_row_that_says_what_it_is(world):
    rows = rows_of(world)
    assert [row.run for row in rows] == list(RUNS)
    for row in rows:
        assert row.state
        assert min(row.gpu_hours_useful, row.gpu_hours_lost) >= -1e-9
        assert row.attempts >= 0
        assert json.loads(json.dumps(vars(row)))["state"] == row.state
        assert (row.state in ("completed", "running", "pending", "unknown")) <= (row.next == "")


@OFTEN
@given(worlds())
def test_whatever_the_scheduler_says_a_run_with_a_record_is_completed(world):
    states, _, _ = world
    for at, row in zip(states, rows_of(world), strict=True):
        assert (at.state == "completed") == (row.state == "completed")


@OFTEN
@given(worlds())
def test_whatever_the_scheduler_says_a_run_whose_lock_is_held_runs(world):
    states, _, _ = world
    for at, row in zip(states, rows_of(world), strict=True):
        assert at.state != "running" or row.state == "running"


@OFTEN
@given(worlds(), st.sampled_from([*WAITING, *sorted(RUNNING)]), st.lists(st.sampled_from(STATES)) | st.none())
def test_a_run_that_squeue_lists_as_waiting_or_running_is_that_whatever_sacct_says(world, state, starts):
    (at, *_), _, _ = world
    made = {"event": "submitting", "submission": "aaaa0001", "time": NOW - 600, "runs": [at.folder.id]}
    submissions = submissions_in([made, {"event": "submitted", "submission": "aaaa0001", "job": "1"}])
    where = {"job": "1", "submission": "aaaa0001"}
    accounts = None if starts is None else "".join(accounted(said, **where) for said in starts)
    (row,) = reconcile([at], submissions, snapshot_of(queued(state, "Resources", **where), accounts, now=NOW))
    if at.state not in ("completed", "running"):
        assert row.state == ("running" if state in RUNNING else "pending")
        assert row.scheduler_state == state


@OFTEN
@given(worlds())
def test_a_scheduler_that_says_nothing_ends_no_run_that_has_a_job(world):
    """Unless its worker has ended it for good: nobody starts such a job again."""
    states, events, _ = world
    silent = snapshot_of(now=NOW, silent=["squeue", "sacct"])
    with_job = {run for one in submissions_in(events) if one.abandoned is None for run in one.runs}
    for at, row in zip(states, rows_of((states, events, silent)), strict=True):
        if at.folder.id in with_job and at.state not in ("completed", "failed", "refused"):
            assert row.state not in DEAD
