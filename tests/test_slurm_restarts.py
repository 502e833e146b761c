"""When a job comes back and when it does not: memory that runs out, restarts without end, a cluster that says no."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from slurm_logs import RECORDED, REPORTED
from status_cases import Case, accounted

from lora_dist.dispatch.requeue import Requeue
from lora_dist.errors import ConfigError, WorkerCrashed
from lora_dist.pipeline.attempt import MOST_RESTARTS, end_of, refuse_idle_restarts
from lora_dist.reporting.status_table import StatusRow
from lora_dist.store.attempts import RANK_LOST
from lora_dist.store.heartbeat import Heartbeat
from lora_dist.store.histories import histories_in
from lora_dist.store.lines import read_lines
from lora_dist.world import SlurmJob

JOB = SlurmJob("7", 0, "node[1-2]", machines=2, gpus_here=0, element=None)
GONE = f"{RANK_LOST} (killed, or out of memory); see the log"


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """scontrol that answers like this, and remembers what it was asked."""

    def says(error: str = "", code: int = 0) -> Path:
        folder = tmp_path / "scontrol"
        folder.mkdir()
        program, calls = folder / "scontrol", folder / "calls"
        program.write_text(
            f"#!{sys.executable} -S\nimport sys\nopen({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            f"sys.stderr.write({error!r})\nsys.exit({code})\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return calls

    return says


def lost(folder: Path, log: str, message: str = GONE) -> Case:
    """A run whose job 7 has lost a rank."""
    case = Case(folder).submitted()
    case.folder.jobs.mkdir()
    (case.folder.jobs / "7_0_log.out").write_text(log)
    case.event("started", job="7", restart=0, nodes="node[1-2]", gpus=0)
    Heartbeat(case.run.heartbeat)("train", 12, 450)
    if message:
        case.event("ended", outcome="failed", seconds=5.0)
        case.run.write_outcome("failed", message, rank=0, host="node1")
    return case


def row_of(case: Case, slurm, monkeypatch) -> StatusRow:
    """The run as status sees it, where the cluster says that its job failed."""
    monkeypatch.setenv("PATH", slurm.env["PATH"])
    slurm.says(sacct=accounted("FAILED", code="1:0"))
    return case.row()


def kinds(case: Case) -> list[str]:
    return [line["event"] for line in read_lines(case.folder.ledger)][2:]


@pytest.mark.parametrize("message", [GONE, ""], ids=["the first rank saw it", "the first rank was killed"])
def test_a_job_whose_rank_was_killed_comes_back_unless_memory_had_run_out(tmp_path, scontrol, message):
    calls = scontrol()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    killed = lost(tmp_path / "a", RECORDED["kill"], message)
    Requeue(JOB, 120).after_loss(killed.run)
    assert calls.read_text() == "requeue 7\n"
    assert kinds(killed)[-1] == "requeued"
    starved = lost(tmp_path / "b", RECORDED["kill"] + REPORTED["out of memory"].replace("1-3", "1"), message)
    Requeue(JOB, 120).after_loss(starved.run)
    assert calls.read_text() == "requeue 7\n", "only the other one"
    assert kinds(starved) == ["started", "ended"]
    told = starved.run.read_outcome()
    assert (told["outcome"], told["cause"], told["rank"]) == ("failed", "out_of_memory", 1)
    assert "train.micro_batch_size" in told["message"]


def test_status_calls_it_out_of_memory_though_the_cluster_says_failed(tmp_path, scontrol, slurm, monkeypatch):
    scontrol()
    case = lost(tmp_path, REPORTED["out of memory"])
    Requeue(JOB, 120).after_loss(case.run)
    row = row_of(case, slurm, monkeypatch)
    assert (row.state, row.cluster.cause, row.cluster.action) == ("failed", "out_of_memory", "mend")
    assert "launch.slurm.memory" in row.reason


# As torch 2.11, numpy 2 and Linux word them.
NO_MEMORY = {
    "CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."
    ),
    "Python": MemoryError(),
    "fork": OSError(12, "Cannot allocate memory"),
    "another rank": WorkerCrashed("rank 1: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ..."),
}


@pytest.mark.parametrize("how", [*NO_MEMORY, "CUDA"])
def test_an_error_for_want_of_memory_names_the_setting_to_change(how):
    if how == "CUDA":
        import torch

        error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
    else:
        error = NO_MEMORY[how]
    outcome, message, facts = end_of(error)
    assert (outcome, facts["cause"]) == ("failed", "out_of_memory")
    assert message.startswith("out of memory: ")
    assert "train.micro_batch_size" in message


def test_memory_that_the_allocator_really_cannot_get_is_known_as_that():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**52, dtype=torch.float64)
    assert end_of(caught.value)[2]["cause"] == "out_of_memory"


@pytest.mark.parametrize("error", [ValueError("out of range"), WorkerCrashed("rank 0: gone")])
def test_other_errors_are_not_called_that(error):
    assert end_of(error) == ("failed", f"{'ValueError: ' if isinstance(error, ValueError) else ''}{error}", {})


def started(case: Case, restart: int, *, job: str = "7", resumed: int = 0, end: dict | None = None) -> None:
    case.event("started", job=job, restart=restart, nodes=f"node{restart % 2 + 1}", gpus=0)
    if resumed:
        case.event("resumed", step=resumed)
    if end is not None:
        case.event("ended", **{"outcome": "lost", "seconds": 5.0, **end})


def test_a_job_that_the_cluster_starts_for_ever_is_refused_with_its_nodes(tmp_path):
    case = Case(tmp_path).submitted()
    for restart in range(MOST_RESTARTS - 1):
        started(case, restart, end={"stage": "train", "done": 20 - restart, "total": 450} if restart % 2 else None)
    refuse_idle_restarts(case.run, JOB)
    started(case, MOST_RESTARTS)
    with pytest.raises(ConfigError, match=r"job 7 .* 5 times .* step 0; it ran on node1, node2") as caught:
        refuse_idle_restarts(case.run, JOB)
    assert f"lora-dist retry {case.folder.path} {case.run.id}" in str(caught.value)
    assert case.run.read_outcome()["outcome"] == "refused"
    refuse_idle_restarts(
        case.run, SlurmJob("8", 0, "node1", machines=1, gpus_here=0, element=None)
    )  # a retry is another job


HELPED = {
    "it went on from a later step each time": lambda case, n: started(case, n, resumed=10 * n),
    "another job": lambda case, n: started(case, n, job=f"{n}"),
    "it said its end once": lambda case, n: started(case, n, end={"outcome": "failed"} if n == 2 else {}),
    "its blocks are pruned one after the other": lambda case, n: started(case, n, end={"stage": "prune", "done": n}),
    "it came from training to its evaluation": lambda case, n: started(
        case, n, end={"stage": "train" if n < 3 else "evaluate"}
    ),
}


@pytest.mark.parametrize("how", HELPED)
def test_restarts_that_bring_a_run_on_are_not_counted(tmp_path, how):
    case = Case(tmp_path).submitted()
    for restart in range(1, MOST_RESTARTS + 1):
        HELPED[how](case, restart)
    refuse_idle_restarts(case.run, JOB)


def test_a_checkpoint_that_the_last_start_has_left_is_an_advance(tmp_path):
    case = Case(tmp_path).submitted()
    for restart in range(MOST_RESTARTS):
        started(case, restart)
    (case.run.checkpoints / "step-10").mkdir(parents=True)
    refuse_idle_restarts(case.run, JOB)


# Of a real Slurm 22.05: a job submitted with --no-requeue; a controller that is not there.
REFUSALS = ["Requested operation is presently disabled for job 7\n", "Unexpected message received for job 7\n"]


@pytest.mark.parametrize("said", REFUSALS)
def test_a_job_that_could_not_be_given_back_is_not_told_of_as_requeued(tmp_path, scontrol, slurm, monkeypatch, said):
    scontrol(said, 1)
    case = lost(tmp_path, RECORDED["kill"])
    Requeue(JOB, 120).after_loss(case.run)
    assert kinds(case)[-2:] == ["requeued", "not_requeued"]
    (history,) = histories_in(read_lines(case.folder.ledger)).values()
    assert history.last.requeued == {}
    row = row_of(case, slurm, monkeypatch)
    assert row.state == "failed"
    assert said.strip() in row.reason


def test_after_a_preemption_the_cluster_has_done_it_already(tmp_path, scontrol):
    scontrol("Job is pending execution for job 7\n", 1)
    case = lost(tmp_path, RECORDED["kill"])
    Requeue(JOB, 120).after_loss(case.run)
    assert kinds(case)[-1] == "requeued"


def test_losses_that_no_requeue_followed_do_not_count(tmp_path, scontrol):
    calls = scontrol("no\n", 1)
    case = lost(tmp_path, RECORDED["kill"])
    for _ in range(5):
        Requeue(JOB, 120).after_loss(case.run)
    assert len(calls.read_text().splitlines()) == 5
    assert json.loads(case.folder.ledger.read_text().splitlines()[-1])["why"] == "no"
