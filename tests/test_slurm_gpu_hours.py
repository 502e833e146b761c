"""GPU-hours of a run, useful and lost, over all starts of all its jobs: against a count of its steps by start."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from conftest import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from status_cases import Case, accounted, queued, snapshot_of

from lora_dist.dispatch.elements import elements_by_run
from lora_dist.dispatch.gpu_hours import GpuHours, gpu_hours
from lora_dist.store.histories import History, histories_in
from lora_dist.store.ledger import ENDED, REQUEUED, RESUMED, STARTED, Submission

HOUR = 3600.0
OFTEN = settings(max_examples=400, deadline=None)
BEGAN = 1_800_000_000.0
SLURM_SAYS = {"failed": "FAILED", "saved": "PREEMPTED", "done": "COMPLETED"}


@dataclass(frozen=True)
class Start:
    """One start of a job, as it is drawn."""

    job: int
    gpus: int
    elapsed: int
    worker: str
    """none; or how it ended: loading (killed before it trained), killed, failed, saved, done; or what it does now:
    starting, alive."""
    loads: int
    """Seconds from the start to the worker's."""
    trains: int
    """Steps."""
    forgets: int
    """Steps that are not in its newest checkpoint when it is killed."""

    @property
    def has_worker(self) -> bool:
        return self.worker not in ("none", "starting")

    @property
    def runs(self) -> bool:
        return self.worker in ("starting", "alive")

    @property
    def trains_some(self) -> bool:
        return self.worker in ("killed", "saved", "done", "alive")


@st.composite
def lives(draw) -> list[Start]:
    count = draw(st.integers(1, 6))
    jobs = sorted(draw(st.lists(st.integers(1, 3), min_size=count, max_size=count)))
    gpus = draw(st.lists(st.integers(0, 8), min_size=3, max_size=3))
    workers = ["none", "loading", "killed", "killed", "failed", "saved"]
    return [
        Start(
            job,
            gpus=gpus[job - 1],
            elapsed=draw(st.integers(60, 90_000)),
            worker=draw(st.sampled_from(workers if number < count - 1 else [*workers, "done", "starting", "alive"])),
            loads=draw(st.integers(0, 50)),
            trains=draw(st.integers(1, 30)),
            forgets=draw(st.integers(0, 30)),
        )
        for number, job in enumerate(jobs)
    ]


class Life:
    """A run's starts lived through: what the cluster and the ledger tell of them, and what its GPUs really came to."""

    def __init__(self, starts: list[Start]) -> None:
        self.starts, self.events, self.sacct, self.squeue = starts, [], "", ""
        self._now, self._saved, self._restarts = BEGAN, 0, dict.fromkeys((1, 2, 3), -1)
        self._unsaid: list[dict] = []
        """The end of an attempt that was killed: the next worker writes it."""
        self.kept: list[list[bool] | None] = []
        """Of each start that was killed in its training: which of its steps did not have to be done again."""
        for start in starts:
            self._live(start)
            self._now += start.elapsed + 60

    def _live(self, start: Start) -> None:
        self._restarts[start.job] += 1
        self._scheduler_tells(start)
        self.kept.append(None)
        if not start.has_worker:
            return
        where = {"job": str(start.job), "restart": self._restarts[start.job], "gpus": start.gpus}
        self._tell(*self._unsaid, {"event": STARTED, "time": self._now + start.loads, **where})
        self._unsaid = []
        first = self._saved
        if start.trains_some:
            self._tell(*([{"event": RESUMED, "step": first}] if first else []))
            for steps in filter(None, self.kept):
                steps[first:] = [False] * len(steps[first:])  # beyond the checkpoint they are done again
            reached = first + start.trains
            self._saved = max(first, reached - start.forgets) if start.worker == "killed" else reached
        self._worker_ends(start, first)

    def _worker_ends(self, start: Start, first: int) -> None:
        end = {"event": ENDED, "seconds": start.elapsed - start.loads}
        reached = first + start.trains
        match start.worker:
            case "killed":
                self.kept[-1] = [first <= step for step in range(reached)]
                self._unsaid = [{**end, "outcome": "lost", "stage": "train", "done": reached}]
            case "loading":
                self._unsaid = [{**end, "outcome": "lost", "stage": "load", "done": 0}]
            case "failed":
                self._tell({**end, "outcome": "failed"})
            case "saved":
                requeued = {"event": REQUEUED, "step": reached, "stage": "train", "cause": "signal"}
                self._tell({**end, "outcome": "interrupted"}, requeued)
            case "done":
                self._tell({**end, "outcome": "completed"})

    def _tell(self, *events: dict) -> None:
        self.events += [{"run": "r", **event} for event in events]

    def _scheduler_tells(self, start: Start) -> None:
        job = {"job": str(start.job), "submission": f"aaaa000{start.job}"}
        end = "Unknown" if start.runs else int(self._now + start.elapsed)
        is_last = start is [other for other in self.starts if other.job == start.job][-1]
        ended = SLURM_SAYS.get(start.worker, "NODE_FAIL") if is_last else "REQUEUED"
        said = "RUNNING" if start.runs else ended
        self.sacct += accounted(said, start.elapsed, gpus=start.gpus, start=int(self._now), end=end, **job)
        if start.runs:
            clock = f"{start.elapsed // 3600}:{start.elapsed // 60 % 60:02}:{start.elapsed % 60:02}"
            self.squeue = queued("RUNNING", elapsed=clock, start=int(self._now), **job)

    def share(self, number: int) -> float:
        """How much of a start was of use."""
        start, steps = self.starts[number], self.kept[number]
        if start.runs or start.worker in ("saved", "done"):
            return 1.0
        was_gone_on_from = any(later.trains_some for later in self.starts[number + 1 :])
        return sum(steps) / start.trains if steps and was_gone_on_from else 0.0

    def told_seconds(self, number: int) -> float:
        """How long the ledger (or squeue, of a job that runs) says that a start was."""
        start = self.starts[number]
        is_known = start.worker not in ("killed", "loading") or any(
            later.has_worker for later in self.starts[number + 1 :]
        )
        told = start.elapsed - start.loads if start.has_worker and is_known else 0
        return start.elapsed if start.runs else told


def counted(life: Life, *, has_accounts: bool) -> GpuHours:
    gpus = {start.job: start.gpus for start in life.starts}
    submissions = [
        Submission(f"aaaa000{job}", BEGAN - 60, "", "run", ("r",), {"gpus": gpus[job]}, job=str(job)) for job in gpus
    ]
    snapshot = snapshot_of(life.squeue, life.sacct if has_accounts else None)
    history = histories_in(life.events).get("r", History())
    elements = elements_by_run(submissions, snapshot, {})["r"]
    return gpu_hours(elements, history, 0.0, is_completed=life.starts[-1].worker == "done")


@OFTEN
@given(lives())
def test_useful_and_lost_hours_are_what_the_accounts_say_was_given_and_what_the_steps_came_to(starts):
    life = Life(starts)
    spent = counted(life, has_accounts=True)
    assert min(spent.useful, spent.lost) >= -1e-9
    given = [start.gpus * start.elapsed for start in starts]
    assert (spent.useful + spent.lost) * HOUR == pytest.approx(sum(given))
    assert spent.useful * HOUR == pytest.approx(sum(life.share(n) * size for n, size in enumerate(given)))
    assert spent.unseen_starts == sum(start.worker == "none" for start in starts)


@OFTEN
@given(lives())
def test_without_accounts_the_hours_are_those_that_the_workers_told_of(starts):
    life = Life(starts)
    spent = counted(life, has_accounts=False)
    assert min(spent.useful, spent.lost) >= -1e-9
    told = [start.gpus * life.told_seconds(n) for n, start in enumerate(starts)]
    assert (spent.useful + spent.lost) * HOUR == pytest.approx(sum(told))
    assert spent.useful * HOUR == pytest.approx(sum(life.share(n) * size for n, size in enumerate(told)))


def hours(case: Case) -> tuple[float, float]:
    facts = case.row().cluster
    return pytest.approx(facts.gpu_hours_useful), pytest.approx(facts.gpu_hours_lost)


def test_the_starts_of_a_requeued_job_are_told_apart_in_whatever_order_sacct_lists_them(tmp_path, slurm):
    case = Case(tmp_path, age=20_000).submitted().started(restart=0, ago=15_000).ended("failed", "a rank was lost")
    case.started(restart=1, ago=9_000).ended("interrupted", "saved")
    starts = [accounted("FAILED", 3600, ago=15_000), accounted("PREEMPTED", 1800, ago=9_000), accounted("PENDING", 0)]
    for order in (starts, starts[::-1], [starts[1], starts[2], starts[0]]):
        slurm.says(queued("PENDING", "BeginTime"), "".join(order))
        assert hours(case) == (1.0, 2.0)
        assert case.row().attempts == 2


def test_a_run_that_finished_after_a_lost_attempt_lost_that_one_alone(tmp_path, slurm):
    case = Case(tmp_path, age=20_000).submitted().started(restart=0, ago=15_000)
    case.finish(case.runs[0], 2.5, steps=1)  # it begins and ends without a word of its job
    slurm.says(sacct=accounted("NODE_FAIL", 3600, ago=15_000) + accounted("COMPLETED", 7200, gpus=4, ago=1))
    assert case.row().state == "completed"
    assert hours(case) == (8.0, 2.0)


def test_a_start_whose_worker_never_began_is_an_attempt_and_is_lost(tmp_path, slurm):
    case = Case(tmp_path).submitted().started(restart=1).ended("completed")
    slurm.says(sacct=accounted("BOOT_FAIL", 1800, ago=4000) + accounted("COMPLETED", 1800, ago=500))
    assert case.row().attempts == 2
    assert hours(case) == (1.0, 1.0)


def test_a_job_that_several_runs_share_is_given_once(tmp_path, slurm):
    case = Case(tmp_path, points=3).submitted()
    slurm.says(queued("RUNNING"), accounted("RUNNING", 3600, gpus=4))
    facts = [row.cluster for row in case.look().rows]
    assert [one.gpu_hours_useful for one in facts] == [4.0, 0.0, 0.0]
    assert {one.job for one in facts} == {"7"}


def test_where_the_accounts_count_no_gpus_the_worker_s_count_is_taken_or_else_what_was_asked_for(tmp_path, slurm):
    slurm.says(queued("RUNNING"), accounted("RUNNING", 3600, gpus=None))
    case = Case(tmp_path).submitted()
    assert hours(case) == (2.0, 0.0)
    assert hours(case.started(gpus=8)) == (8.0, 0.0)


def test_without_accounts_a_killed_attempt_has_lasted_until_its_last_heartbeat(tmp_path, slurm):
    slurm.says(sacct=None)
    case = Case(tmp_path, age=9000).submitted().started(ago=8000).beats("train", 40, ago=100, lived=7200)
    assert case.row().state == "lost"
    assert hours(case) == (0.0, 4.0)
    assert case.row().seconds == pytest.approx(7200)


def test_another_cluster_s_hours_of_a_job_with_the_same_number_are_not_this_run_s(tmp_path, slurm):
    slurm.says(sacct=accounted("FAILED", 3600, submission="ffff0000") + accounted("FAILED", 1800))
    assert hours(Case(tmp_path).submitted()) == (0.0, 1.0)


def test_the_table_sums_the_hours_of_all_runs(tmp_path, slurm):
    case = Case(tmp_path, points=2).submitted()
    slurm.says(
        queued("RUNNING", job="7_0"),
        accounted("RUNNING", 5400, job="7_0") + accounted("FAILED", 900, job="7_1", gpus=1),
    )
    done = run_cli("status", case.folder.path, cwd=tmp_path)
    assert "GPU-hours: 3.00 useful, 0.25 lost" in done.out


def test_a_preparation_of_all_runs_is_nobody_s_attempt_and_not_lost(tmp_path, slurm):
    case = Case(tmp_path, points=2).submitting("abcd0001", stage="prepare").submitted("6", "abcd0001")
    case.submitted()
    prepared = accounted("COMPLETED", 360, job="6", submission="abcd0001", gpus=1)
    slurm.says(queued("RUNNING", job="7_[0-1]"), prepared + accounted("RUNNING", 360, job="7_0", gpus=1))
    first, second = case.look().rows
    assert (first.attempts, second.attempts) == (0, 0)
    assert first.cluster.gpu_hours_lost == second.cluster.gpu_hours_lost == 0
    assert first.cluster.gpu_hours_useful == pytest.approx(0.2), "the preparation stands on one account"
