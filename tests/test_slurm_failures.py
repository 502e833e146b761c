"""What a run that failed on a cluster tells: who was first, where, how far it was, its last words, what to type."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import run_cli
from slurm_cases import events, start, trained_steps
from slurm_cases import write_long as write_long_run
from slurm_logs import RECORDED, REPORTED
from status_cases import Case, accounted, queued

from lora_dist.store.attempts import RANK_LOST
from lora_dist.store.heartbeat import Heartbeat


class Failed(Case):
    """A case whose job 7 has ended badly, with the files that it left."""

    def __init__(self, folder: Path, **options):
        super().__init__(folder, **options)
        self.submitted()
        self.folder.jobs.mkdir()
        (self.folder.jobs / "7_submission.sh").touch()
        time.sleep(0.01)  # what follows is newer than that

    def log(self, text: str, rank: int = 0) -> Failed:
        (self.folder.jobs / f"7_{rank}_log.out").write_text(text)
        return self

    def rank(self, rank: int, text: str) -> Failed:
        path = self.run.log if rank == 0 else self.run.log.with_name(f"rank-{rank}.log")
        path.write_text(text)
        return self

    def began(self, outcome: str = "", message: str = "", **facts) -> Failed:
        self.event("started", job="7", restart=0, nodes="node[1-2]", gpus=0)
        if outcome:
            self.event("ended", outcome=outcome, seconds=5.0)
            self.run.write_outcome(outcome, message, **facts)
        return self

    def failure(self) -> dict:
        (row,) = json.loads(run_cli("status", self.folder.path, "--json", cwd=self.folder.path).out)
        return row["failure"]


@pytest.fixture
def failed(slurm) -> None:
    slurm.says(sacct=accounted("FAILED", code="1:0", nodes="node[1-2]"))


@pytest.mark.usefixtures("failed")
def test_a_rank_that_says_its_own_error_is_the_first(tmp_path):
    case = Failed(tmp_path).began("failed", "on rank 1: ValueError: odd", rank=1, host="node2")
    Heartbeat(case.run.heartbeat)("train", 12, 450)
    case.log(RECORDED["exit"]).rank(0, "calm\n").rank(1, "1\n2\nValueError: odd\n")
    assert case.failure() == {
        "rank": 1, "node": "node2", "stage": "train", "step": 12, "steps": 450, "cause": "failed",
        "lines": ["1", "2", "ValueError: odd"], "log": str(case.run.log.with_name("rank-1.log")),
    }  # fmt: skip
    told = run_cli("status", case.folder.path, cwd=tmp_path).out
    assert "  rank 1 on node2, train 12/450: failed\n  | 1\n  | 2\n  | ValueError: odd\n  log: " in told
    assert f"next: lora-dist retry {case.folder.path} {case.run.id}" in told


@pytest.mark.usefixtures("failed")
def test_where_the_others_only_saw_that_it_was_gone_srun_says_who(tmp_path):
    case = Failed(tmp_path).began(
        "failed", f"{RANK_LOST} (killed, or out of memory); see the log", rank=0, host="node1"
    )
    case.log("srun: error: node1: task 0: Exited with exit code 1\n" + RECORDED["kill"]).rank(1, "its last word\n")
    found = case.failure()
    assert (found["rank"], found["node"], found["cause"], found["lines"]) == (1, "node2", "killed", ["its last word"])


@pytest.mark.parametrize("name", ["out of memory", "out of memory, before 21.08"])
@pytest.mark.usefixtures("failed")
def test_the_out_of_memory_killer_is_named_with_the_setting_to_change(tmp_path, name):
    case = Failed(tmp_path).began().log(REPORTED[name])
    assert case.failure()["cause"] == "out_of_memory"
    assert "train.micro_batch_size" in run_cli("status", case.folder.path, cwd=tmp_path).out


def test_a_node_that_failed_is_named_and_the_job_s_log_tells_of_it(tmp_path, slurm):
    case = Failed(tmp_path).began().log(RECORDED["power cut"]).rank(0, "step 5\n")
    slurm.says(sacct=accounted("NODE_FAIL", nodes="node[1-2]"))
    found = case.failure()
    assert (found["rank"], found["node"], found["cause"]) == (None, "node2", "node_fail")
    assert "srun: error: Node failure on node2" in found["lines"]
    assert found["log"] == str(case.folder.jobs / "7_0_log.out")


@pytest.mark.usefixtures("failed")
def test_what_other_jobs_left_is_not_taken_for_this_one_s(tmp_path):
    case = Failed(tmp_path).began("failed", "ValueError: of yesterday", rank=1, host="node9").rank(1, "old\n")
    Heartbeat(case.run.heartbeat)("train", 400, 450)
    time.sleep(0.01)
    (case.folder.jobs / "7_submission.sh").touch()
    case.log("bash: module: command not found\n")
    found = case.failure()
    assert (found["rank"], found["step"], found["lines"]) == (None, 0, ["bash: module: command not found"])


@pytest.mark.usefixtures("failed")
def test_logs_cannot_steer_a_terminal_nor_break_the_json_and_long_ones_cost_nothing(tmp_path):
    case = Failed(tmp_path).began("failed", "on rank 1: odd", rank=1, host="node2")
    case.log(RECORDED["exit"])
    noise = b"\x1b[2J\x1b]0;pwned\x07" + b"\xff\xfe\x00 \xed\xa0\x80 last word \x1b[31mred\x1b[0m \x9b1m\n"
    with case.run.log.with_name("rank-1.log").open("wb") as file:
        file.truncate(2**31)  # 2 GiB of nothing
        file.seek(0, 2)
        file.write(b"\n" + noise)
    began = time.monotonic()
    found = case.failure()
    told = run_cli("status", case.folder.path, cwd=tmp_path).out
    assert time.monotonic() - began < 20, "two starts of Python"
    assert "last word red" in found["lines"][-1]
    for text in (found["lines"][-1], told):
        assert all(sign.isprintable() or sign == "\n" for sign in text)


def test_what_waits_for_a_run_that_failed_has_no_log_of_its_own(tmp_path, slurm):
    slurm.says(queued("PENDING", "DependencyNeverSatisfied"))
    found = Failed(tmp_path).failure()
    assert (found["cause"], found["lines"], found["log"]) == ("dependency", [], "")


def test_no_more_logs_are_read_than_are_shown(tmp_path, slurm):
    case = Failed(tmp_path, points=30)
    for index in range(30):
        (case.folder.jobs / f"7_{index}_0_log.out").write_text(RECORDED["exit"])
    slurm.says(sacct="".join(accounted("FAILED", job=f"7_{index}") for index in range(30)))
    told = run_cli("status", case.folder.path, cwd=tmp_path).out
    assert told.count("rank 1 on node2, run: failed") == 10
    assert "and 20 more that did not end well" in told
    rows = json.loads(run_cli("status", case.folder.path, "--json", cwd=tmp_path).out)
    assert [row["failure"]["rank"] for row in rows] == [1] * 30


RAISES = """\
import os, signal
if os.environ.get("SLURM_PROCID") == "1":
    def fall(*_):
        raise RuntimeError("the card has fallen off the bus")
    signal.signal(signal.SIGALRM, fall)
"""


@pytest.mark.slow  # two nodes; recorded logs have one case of each cause
def test_a_rank_that_raises_on_the_second_node_is_named_with_its_last_words(
    cluster, tmp_path, tiny_model, problem_files
):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(RAISES)  # a fault that a signal from outside sets off
    write_long_run(tmp_path, tiny_model, problem_files, setup=[f"export PYTHONPATH={tmp_path / 'site'}"])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(start, cluster, tmp_path, "small.yaml", "--wait")
        cluster.wait_for(lambda: trained_steps(tmp_path, "full") > 5, "some steps", 240)
        assert cluster.in_node(2, "pkill", "-ALRM", "-f", "lora_dist work").code == 0
        ended = waiting.result()
    assert ended.code == 3, ended.err
    assert not events(tmp_path, "requeued")
    done = start(cluster, tmp_path, "runs/small", "--json", verb="status")
    assert done.code == 3, done.err
    (row,) = json.loads(done.out)
    found = row["failure"]
    assert (found["rank"], found["node"], found["stage"], found["cause"]) == (1, "node2", "train", "failed")
    assert 0 < found["step"] < found["steps"], "a heartbeat is not written at every step"
    assert "RuntimeError: the card has fallen off the bus" in found["lines"][-1]
    assert found["log"].endswith("/logs/rank-1.log")
    told = start(cluster, tmp_path, "runs/small", verb="status").out
    for text in (told, ended.err):
        assert f"rank 1 on node2, train {found['step']}/450: failed" in text
        assert "  | [rank1]: RuntimeError: the card has fallen off the bus" in text
        assert "next: lora-dist retry" in text
