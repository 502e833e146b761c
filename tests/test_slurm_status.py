"""status over recorded words of SLURM 22.05: who is believed, what each end of a job means, in how many questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, experiment_document, run_cli
from slurm_replies import NO_ACCOUNTING, FakeSlurm

from lora_dist.config.expansion import expand
from lora_dist.config.loading import load_experiment
from lora_dist.dispatch.elements import orphans
from lora_dist.dispatch.scheduler import seen_jobs
from lora_dist.store.atomic import make_folder
from lora_dist.store.folders import ExperimentFolder, dump_yaml
from lora_dist.store.ledger import read_submissions, write_event, write_requeued, write_submitted, write_submitting


@pytest.fixture
def scheduler(tmp_path):
    """squeue and sacct that say these lines; what else is said of one of them is how it fails."""
    fake = FakeSlurm(tmp_path / "bin")

    def says(squeue: str | dict, sacct: str | dict) -> dict[str, str]:
        for command, said in (("squeue", squeue), ("sacct", sacct)):
            if isinstance(said, str):
                fake.put(command, said)
            elif said is not ABSENT:
                fake.put(command, **said)
        return fake.env

    says.fake = fake
    return says


ABSENT: dict = {}
NO_ACCOUNTS = {"error": NO_ACCOUNTING, "code": 1}


def lines(*said: str) -> str:
    return "".join(f"{line}\n" for line in said)


class Case:
    """An experiment of one arm, whose run has job 7."""

    def __init__(self, folder: Path, *, points: int = 1, age: float = 600):
        document = experiment_document(folder / "model", {"train": "t.jsonl"}, launch={"launcher": "slurm"})
        rates = [1e-4 * (1 + index) for index in range(points)]
        document |= {"arms": {"sweep": {"grid": {"train.learning_rate": rates}}}, "output_dir": str(folder / "runs")}
        source = folder / "small.yaml"
        source.write_text(yaml.safe_dump(document, sort_keys=False))
        experiment = load_experiment(source)
        self.folder = ExperimentFolder(folder / "runs" / "small")
        make_folder(self.folder.path)
        self.folder.experiment.write_text(dump_yaml(experiment.model_dump(mode="json")))
        self.runs = [run.id for run in expand(experiment)]
        for run in expand(experiment):
            self.folder.run(run.id).create(run.model_dump(mode="json"))
        write_submitting(
            self.folder.ledger, "abcd1234", job_name="small-lora.abcd1234", stage="run", runs=self.runs,
            resources={"nodes": 1, "gpus": 2},
        )  # fmt: skip
        self._make_older(age)
        self.run = self.folder.run(self.runs[0])

    def _make_older(self, age: float) -> None:
        event = json.loads(self.folder.ledger.read_text())
        self.folder.ledger.write_text(json.dumps({**event, "time": time.time() - age}) + "\n")

    def submitted(self) -> Case:
        write_submitted(self.folder.ledger, "abcd1234", "7")
        return self

    def event(self, kind: str, **facts) -> Case:
        write_event(self.folder.ledger, self.run.id, kind, **facts)
        return self

    def status(self, env: dict[str, str]) -> dict:
        done = run_cli("status", self.folder.path, "--json", cwd=self.folder.path, env=env)
        assert done.code in (0, 3), done.err
        document = json.loads(done.out)
        return (document["runs"] if isinstance(document, dict) else document)[0]


def sacct(state: str, *, job: str = "7", code: str = "0:0", seconds: int = 360, nodes: str = "node1") -> str:
    now = datetime.now()
    start = now.strftime("%Y-%m-%dT%H:%M:%S")
    name = "small-lora.abcd1234"
    return f"{job}|{state}|{code}|{seconds}|billing=2,cpu=2,gres/gpu=2,node=1|1|{nodes}|{start}|{start}|{name}"


def squeue(state: str, *, job: str = "7", reason: str = "None", left: str = "50:00") -> str:
    return f"{job}|{state}|node1|6:00|{left}|2026-01-01T00:00:00|{reason}|small-lora.abcd1234|lora_dist small"


ENDS = {
    "PENDING": (squeue("PENDING", reason="Resources"), "", "pending", ""),
    "never": (squeue("PENDING", reason="DependencyNeverSatisfied"), "", "failed", "dependency"),
    "RUNNING": (squeue("RUNNING"), sacct("RUNNING"), "running", ""),
    "COMPLETED without a record": ("", sacct("COMPLETED"), "lost", "lost"),
    "PREEMPTED": ("", sacct("PREEMPTED"), "interrupted", "preempted"),
    "TIMEOUT": ("", sacct("TIMEOUT"), "failed", "timeout"),
    "NODE_FAIL": ("", sacct("NODE_FAIL"), "interrupted", "node_fail"),
    "OUT_OF_MEMORY": ("", sacct("OUT_OF_ME+", code="0:125"), "failed", "out_of_memory"),
    "FAILED": ("", sacct("FAILED", code="7:0"), "failed", "failed"),
    "CANCELLED": ("", sacct("CANCELLED by 0"), "cancelled", "cancelled"),
    "DEADLINE": ("", sacct("DEADLINE"), "failed", "deadline"),
    # sacct lags: the cluster has started the job again already
    "NODE_FAIL and PENDING": (squeue("PENDING", reason="BeginTime"), sacct("NODE_FAIL"), "pending", ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_a_job_s_end_means_for_its_run(tmp_path, scheduler, end):
    queue, accounts, state, cause = ENDS[end]
    row = Case(tmp_path).submitted().status(scheduler(lines(queue), lines(accounts)))
    assert (row["state"], row["cluster"]["cause"]) == (state, cause)
    if state == "failed":
        assert row["reason"]
    if end == "OUT_OF_MEMORY":
        assert "micro_batch_size" in row["reason"]
    if end == "RUNNING":
        assert row["cluster"]["time_left_s"] == 3000
    if end == "FAILED":
        assert row["cluster"]["gpu_hours_lost"] == pytest.approx(0.2)  # 2 GPUs for 6 minutes, and no worker began
        assert "retry" in row["cluster"]["next"]


def test_what_the_worker_said_is_believed_before_the_scheduler(tmp_path, scheduler):
    case = Case(tmp_path).submitted().event("started", job="7", restart=0, nodes="node1", gpus=2)
    case.event("ended", outcome="refused", seconds=5.0)
    case.run.write_outcome("refused", "data.path: gone; give another")
    row = case.status(scheduler(lines(""), lines(sacct("FAILED", code="2:0"))))
    assert (row["state"], row["reason"]) == ("refused", "data.path: gone; give another")


def test_a_requeued_run_says_why_and_where_it_goes_on(tmp_path, scheduler):
    case = Case(tmp_path).submitted().event("started", job="7", restart=0, nodes="node1", gpus=2)
    case.event("ended", outcome="interrupted", seconds=5.0)
    case.run.write_outcome("interrupted", "saved")
    write_requeued(case.folder.ledger, case.run.id, cause="preempted", job="7", step=40, steps=100, stage="train")
    row = case.status(scheduler(lines(squeue("PENDING", reason="BeginTime")), lines(sacct("PREEMPTED"))))
    assert row["state"] == "pending"
    assert "requeued (preempted) at step 40" in row["reason"]
    assert row["cluster"]["gpu_hours_useful"] == pytest.approx(0.2)  # it saved


SILENT = {
    "squeue fails": ({"error": "no controller", "code": 1}, lines(""), "no controller"),
    "squeue hangs": ({"hang": 60}, lines(""), "did not answer"),
    "no squeue": (ABSENT, ABSENT, "not installed"),
}


@pytest.mark.parametrize("how", SILENT)
def test_a_scheduler_that_says_nothing_makes_no_run_dead_and_holds_nobody_up(tmp_path, scheduler, how):
    queue, accounts, why = SILENT[how]
    case = Case(tmp_path).submitted()
    env = scheduler(queue, accounts)
    began = time.monotonic()
    assert case.status(env)["state"] == "unknown"
    assert time.monotonic() - began < 30, "a hang of a minute"
    assert why in run_cli("status", case.folder.path, cwd=tmp_path, env=env).out


def test_without_accounting_the_workers_and_the_queue_have_to_do(tmp_path, scheduler):
    case = Case(tmp_path).submitted()
    env = scheduler(lines(squeue("FAILED")), NO_ACCOUNTS)
    assert case.status(env)["state"] == "failed"
    assert "keeps no accounts" in run_cli("status", case.folder.path, cwd=tmp_path, env=env).out
    assert case.status(scheduler(lines(""), NO_ACCOUNTS))["state"] == "lost"


@pytest.mark.parametrize(
    ("queue", "accounts", "age", "found"),
    [
        (squeue("PENDING"), "", 60, "adopted"),
        ("", sacct("COMPLETED"), 60, "adopted"),
        ("", "", 60, "never_reached"),
        ("", "", 1, "unknown"),
    ],
)
def test_a_submission_without_a_job_is_found_by_its_name(tmp_path, scheduler, monkeypatch, queue, accounts, age, found):
    case = Case(tmp_path, age=age)
    monkeypatch.setenv("PATH", scheduler(lines(queue), lines(accounts))["PATH"])
    submissions = read_submissions(case.folder.ledger)
    became = orphans(submissions, seen_jobs(submissions[0].time))
    assert "abcd1234" in getattr(became, found)
    if found == "adopted":
        assert became.adopted == {"abcd1234": "7"}


def test_two_thousand_runs_take_two_questions(tmp_path, scheduler):
    case = Case(tmp_path, points=2000).submitted()
    queue = [squeue("PENDING", job=f"7_{index}") for index in range(1000, 2000)]
    accounts = [sacct("FAILED", job=f"7_{index}") for index in range(1000)]
    env = scheduler(lines(*queue), lines(*accounts))
    done = run_cli("status", case.folder.path, cwd=tmp_path, env=env)
    assert done.code == 3
    assert "1,000 failed" in done.out
    assert "1,000 pending" in done.out
    asked = ["squeue" if "--me" in arguments else "sacct" for arguments, _ in scheduler.fake.calls()]
    assert sorted(asked) == ["sacct", "squeue"]


def test_status_of_a_cluster_imports_no_torch(tmp_path, scheduler):
    case = Case(tmp_path).submitted()
    code = (
        "import sys; from lora_dist.verbs.status import status; "
        f"status({str(case.folder.path)!r}); print('torch' in sys.modules)"
    )
    env = {**os.environ, **scheduler(lines(""), lines(""))}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
