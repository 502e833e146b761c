"""status --watch and compare --wait: they look until all is settled, ask little, and leave what runs alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import run_cli
from slurm_replies import NO_CONTROLLER
from status_cases import Case, accounted, queued
from terminal import Terminal

from lora_dist.cli.watch import follow
from lora_dist.verbs.status import Look, looks

SILENT = {"error": NO_CONTROLLER, "code": 1}
PATIENCE_S = 60.0
LORA_DIST = [sys.executable, "-m", "lora_dist"]


def as_it_goes(case: Case, *steps: Callable[[], object]) -> Iterator[Look]:
    """A look after each of these; then no more."""
    seen = looks(case.folder.path, interval_s=0.0)
    for step in steps:
        step()
        yield next(seen)
    assert next(seen, None) is None, "it looks on although all is settled"


def test_a_watch_looks_on_until_nothing_waits_runs_or_is_unknown(tmp_path, slurm):
    case = Case(tmp_path).submitted()
    seen = as_it_goes(
        case,
        lambda: slurm.says(queued("PENDING", "Resources")),
        lambda: slurm.says(queued("RUNNING")),
        lambda: slurm.put("squeue", **SILENT),
        lambda: slurm.says(queued("PENDING", "BeginTime"), accounted("NODE_FAIL")),
        lambda: slurm.says(sacct=accounted("TIMEOUT")),
    )
    assert [look.rows[0].state for look in seen] == ["pending", "running", "unknown", "pending", "failed"]


def test_a_watch_waits_for_the_last_of_many_runs(tmp_path, slurm):
    case = Case(tmp_path, points=3).submitted()
    ended = [accounted("FAILED", job="7_0"), accounted("CANCELLED by 0", job="7_1")]
    seen = as_it_goes(
        case,
        lambda: slurm.says(queued("RUNNING", job="7_2"), "".join(ended)),
        lambda: slurm.says(sacct="".join(ended) + accounted("PREEMPTED", job="7_2")),
    )
    assert [look.is_settled for look in seen] == [False, True]


def test_each_look_asks_two_questions_at_most_and_one_where_there_are_no_accounts(tmp_path, slurm):
    case = Case(tmp_path, points=20).submitted().submitting("abcd9999", stage="report", runs=[])
    slurm.says(queued("RUNNING", job="7_[0-19]"))
    seen = looks(case.folder.path, interval_s=0.0)
    asked = []
    for accounts in ("", "", None, None, None):
        slurm.says(queued("RUNNING", job="7_[0-19]"), accounts)
        before = len(slurm.calls())
        next(seen)
        asked.append(len(slurm.calls()) - before)
    assert asked == [2, 2, 2, 1, 1]


def test_a_watch_of_runs_without_jobs_asks_no_scheduler(tmp_path, slurm):
    case = Case(tmp_path)
    case.folder.ledger.write_text("")
    with case.started("").beats("train", 3).held():
        assert next(looks(case.folder.path)).rows[0].state == "running"
    assert slurm.calls() == []


def test_without_a_terminal_the_counts_are_printed_when_they_change(tmp_path, slurm, capsys):
    case = Case(tmp_path, points=2).submitted()
    waits, runs = queued("PENDING", job="7_[0-1]"), queued("RUNNING", job="7_0") + queued("PENDING", job="7_1")
    last = follow(
        as_it_goes(
            case,
            lambda: slurm.says(waits),
            lambda: slurm.says(waits),
            lambda: slurm.says(runs),
            lambda: slurm.says(runs),
            lambda: slurm.says(sacct=accounted("FAILED", job="7_0") + accounted("PREEMPTED", job="7_1")),
        )
    )
    assert capsys.readouterr().out.splitlines() == ["2 pending", "1 running, 1 pending", "1 failed, 1 interrupted"]
    assert [row.state for row in last.rows] == ["failed", "interrupted"]


def test_a_watch_of_what_is_settled_ends_at_once_with_the_table_and_status_s_exit_code(tmp_path, slurm):
    case = Case(tmp_path).submitted()
    case.finish(case.runs[0], 2.5, steps=1)
    done = run_cli("status", case.folder.path, "--watch", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("1 completed\nrun ")
    failed = Case(tmp_path / "failed").submitted()
    slurm.says(sacct=accounted("FAILED"))
    done = run_cli("status", failed.folder.path, "--watch", cwd=tmp_path)
    assert (done.code, done.err) == (3, "")
    assert f"next: lora-dist retry {failed.folder.path}" in done.out


def test_watch_with_json_is_refused_and_asks_nobody(tmp_path, slurm):
    done = run_cli("status", Case(tmp_path).submitted().folder.path, "--watch", "--json", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == "lora-dist: --watch: is for people, --json for programs; leave one of them out\n"
    assert slurm.calls() == []


@pytest.fixture
def worker(tmp_path, slurm) -> Iterator[tuple[Case, subprocess.Popen]]:
    """Two runs, and the worker of the second: a process of its own that holds its lock."""
    case = Case(tmp_path, points=2).submitted()
    code = (
        "import sys, time; from pathlib import Path; from lora_dist.store.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    lock = case.folder.run(case.runs[1].id).lock
    held = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True)
    assert held.stdout.readline() == "held\n"
    slurm.says(queued("PENDING", "Priority", job="7_0") + queued("RUNNING", job="7_1"))
    slurm.put("scancel")
    yield case, held
    held.kill()
    held.communicate()


def test_ctrl_c_ends_a_watch_with_a_line_and_leaves_what_runs_alone(tmp_path, slurm, worker):
    case, held = worker
    before = case.folder.ledger.read_text()
    watch = subprocess.Popen(
        [*LORA_DIST, "status", str(case.folder.path), "--watch"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watch.stdout.readline() == "1 running, 1 pending\n"
    watch.send_signal(signal.SIGINT)
    out, err = watch.communicate(timeout=PATIENCE_S)
    assert (watch.returncode, out, err) == (4, "", "no longer watching; what runs goes on\n")
    assert held.poll() is None
    assert case.look().rows[1].state == "running"
    assert case.folder.ledger.read_text() == before
    assert {arguments[0] for arguments, _ in slurm.calls()} == {"--me", "-X"}, "and no scancel"


def test_ctrl_c_ends_a_watch_that_waits_for_a_hanging_scheduler_and_what_it_had_asked(tmp_path, slurm, worker):
    case, _ = worker
    slurm.put("squeue", hang=600)
    watch = subprocess.Popen(
        [*LORA_DIST, "status", str(case.folder.path), "--watch"], stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(slurm.calls()) == 2)
    watch.send_signal(signal.SIGINT)
    assert watch.communicate(timeout=4)[1] == "no longer watching; what runs goes on\n"
    assert watch.returncode == 4
    program = str(slurm.folder / "squeue").encode()
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if program in read_bytes(path)]


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_terminal_shows_the_table_with_the_liveliest_first_until_ctrl_c(tmp_path, worker):
    case, held = worker
    terminal = Terminal(*LORA_DIST, "status", str(case.folder.path), "--watch", cwd=tmp_path)
    assert terminal.shows("1 running, 1 pending"), terminal.shown
    assert "GPU-h useful" in terminal.shown
    waits, runs = (terminal.shown.index(run.label) for run in case.runs)
    assert runs < waits
    terminal.press(b"\x03")
    assert terminal.end() == 4
    assert "no longer watching; what runs goes on" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert held.poll() is None


def test_a_terminal_keeps_the_last_table_when_all_is_settled(tmp_path, slurm):
    case = Case(tmp_path).submitted()
    slurm.says(queued("PENDING", "Priority"))
    terminal = Terminal(*LORA_DIST, "status", str(case.folder.path), "--watch", cwd=tmp_path)
    assert terminal.shows("1 pending")
    slurm.says(sacct=accounted("OUT_OF_ME+", code="0:125"))
    assert terminal.end() == 3
    *_, last = terminal.shown.split("GPU-h useful")
    assert "1 failed" in last
    assert "train.micro_batch_size" in last


def test_a_narrow_terminal_cuts_rows_and_no_command_that_is_to_be_typed(tmp_path, slurm):
    case = Case(tmp_path).submitted()
    slurm.says(sacct=accounted("OUT_OF_ME+", code="0:125"))
    terminal = Terminal(*LORA_DIST, "status", str(case.folder.path), cwd=tmp_path, columns=60)
    assert terminal.end() == 3
    title, row, *rest = terminal.shown.splitlines()
    assert (len(title) <= 60, len(row) <= 60) == (True, True)
    assert f"  next: lora-dist retry {case.folder.path} {case.run.id}" in rest


@pytest.fixture
def login_node(slurm) -> None:
    """The other commands of a cluster."""
    slurm.put("sinfo", "main*|up|infinite|2|4|8000|(null)\n")
    slurm.put("scontrol", "MaxArraySize = 1001\n")
    for command in ("sbatch", "scancel"):
        slurm.put(command, error="nothing is to be submitted or cancelled here", code=1)


@pytest.fixture
def waiting(tmp_path, slurm, login_node) -> Iterator[tuple[Case, subprocess.Popen, list[str]]]:
    """Two runs whose jobs wait, a `compare --wait` that follows them, and what that has printed until then."""
    case, printed = Case(tmp_path, points=2).submitted(), [""]
    slurm.says(queued("PENDING", "Priority", job="7_[0-1]"))
    compare = subprocess.Popen(
        [*LORA_DIST, "compare", str(case.folder.path), "--wait"], cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "160"}, text=True,
    )  # fmt: skip
    while printed[-1] != "2 pending\n":
        printed.append(compare.stdout.readline())
        assert printed[-1], compare.communicate()[1]
    yield case, compare, printed
    compare.kill()
    compare.communicate()


def test_compare_that_waits_follows_jobs_to_their_end_and_shows_the_comparison(slurm, waiting):
    case, compare, _ = waiting
    case.finish(case.runs[0], 2.5, steps=1)
    slurm.says(sacct=accounted("FAILED", job="7_1"))
    out, err = compare.communicate(timeout=PATIENCE_S)
    assert compare.returncode == 3, err
    assert out.startswith("1 failed, 1 completed\n")
    assert "report.html" in out
    good, bad = case.runs
    assert f"{bad.label}: its job ended FAILED" in err
    assert f"{good.label}:" not in err


def test_ctrl_c_ends_a_compare_that_waits_and_cancels_nothing(waiting):
    case, compare, printed = waiting
    before = case.folder.ledger.read_text()
    compare.send_signal(signal.SIGINT)
    _, err = compare.communicate(timeout=PATIENCE_S)
    assert (compare.returncode, err) == (4, "no longer watching; what runs goes on\n")
    assert "0 jobs submitted, 2 runs have a job already\n" in printed
    assert case.folder.ledger.read_text() == before
