"""status --watch and compare --wait: they look until all is settled, ask little, and leave what runs alone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import run_cli
from slurm_replies import NO_CONTROLLER
from status_cases import Case, accounted, queued
from test_reporting_synthetic import ENVIRONMENT, record_of, write_split

from lora_dist.cli.watch import follow
from lora_dist.config.expansion import expand
from lora_dist.config.loading import load_experiment
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.ledger import read_submissions
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
    """A run whose worker, a process of its own, holds the lock; and the case that it is in."""
    case = Case(tmp_path, points=2).submitted()
    code = (
        "import sys, time; from pathlib import Path; from lora_dist.store.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    held = subprocess.Popen([sys.executable, "-c", code, str(case.run.lock)], stdout=subprocess.PIPE, text=True)
    assert held.stdout.readline() == "held\n"
    slurm.says(queued("RUNNING", job="7_0") + queued("PENDING", "Priority", job="7_1"))
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
    assert case.row().state == "running"
    assert case.folder.ledger.read_text() == before
    assert {arguments[0] for arguments, _ in slurm.calls()} == {"--me", "-X"}, "and no scancel"


def test_ctrl_c_ends_a_watch_that_waits_for_a_hanging_scheduler_and_what_it_had_asked(tmp_path, slurm, worker):
    case, _ = worker
    slurm.put("squeue", hang=600)
    watch = subprocess.Popen(
        [*LORA_DIST, "status", str(case.folder.path), "--watch"], stderr=subprocess.PIPE, text=True
    )
    wait_until(slurm.calls)
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


class Terminal:
    """A command in a terminal of its own: what it shows is read, and keys are typed."""

    def __init__(self, *command: str, cwd: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x28\x00\xa0\x00\x00\x00\x00\x00")  # 40 lines of 160
        self.shown = ""
        self.process = subprocess.Popen(
            command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal to it
        )  # fmt: skip
        os.close(theirs)

    def shows(self, words: str) -> bool:
        """Wait until it has shown these words."""
        deadline = time.monotonic() + PATIENCE_S
        while words not in self.shown and time.monotonic() < deadline and self._read():
            pass
        return words in self.shown

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def end(self) -> int:
        """Read on to its end; its exit code."""
        while self._read():
            pass
        code = self.process.wait(PATIENCE_S)
        os.close(self._ours)
        return code

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], PATIENCE_S)[0]:
            return False
        try:
            raw = os.read(self._ours, 65536)
        except OSError:  # the other side has gone
            return False
        self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.decode(errors="replace"))
        return bool(raw)


def test_a_terminal_shows_the_table_with_the_liveliest_first_until_ctrl_c(tmp_path, worker):
    case, held = worker
    terminal = Terminal(*LORA_DIST, "status", str(case.folder.path), "--watch", cwd=tmp_path)
    assert terminal.shows("1 running, 1 pending"), terminal.shown
    assert "GPU-h useful" in terminal.shown
    assert terminal.shown.index("RUNNING" if "RUNNING" in terminal.shown else "running") < terminal.shown.index(
        "pending"
    )
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


def test_compare_that_waits_follows_its_jobs_to_their_end_and_shows_the_comparison(slurm, write_experiment):
    for command, reply in {
        "sinfo": "main*|up|infinite|2|4|8000|(null)\n", "scontrol": "MaxArraySize = 1001\n", "srun": "",
        "sbatch": "Submitted batch job 7\n", "scancel": "",
    }.items():  # fmt: skip
        slurm.put(command, reply)
    arms = {"good": {"method": {"kind": "base"}}, "bad": {"method": {"kind": "base"}, "data": {"max_length": 128}}}
    file = write_experiment(launch={"launcher": "slurm"}, arms=arms)
    compare = subprocess.Popen(
        [*LORA_DIST, "compare", file.name, "--wait"], cwd=file.parent, env={**os.environ, "COLUMNS": "160"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    folder = ExperimentFolder(file.parent / "runs" / "small")
    try:
        wait_until(
            lambda: (
                compare.poll() is not None
                or [one.stage for one in read_submissions(folder.ledger) if one.job][-1:] == ["report"]
            )
        )
        good, bad = expand(load_experiment(folder.experiment))
        of_run = {run: one for one in read_submissions(folder.ledger) for run in one.runs}
        of_bad = of_run[bad.id]
        number = of_bad.runs.index(bad.id)
        job = f"7_{number}" if len(of_bad.runs) > 1 else "7"
        splits = {"test": write_split(folder.run(good.id), "test", 2.5, 0.05, 30)}
        record_of(good, "a" * 64, splits, ENVIRONMENT).write(folder.run(good.id).record)
        slurm.says(sacct=accounted("FAILED", job=job, submission=of_bad.id))
        out, err = compare.communicate(timeout=PATIENCE_S)
    finally:
        compare.kill()
    assert compare.returncode == 3, err
    assert "1 failed, 1 completed" in out
    assert json.loads(folder.run(good.id).record.read_text())["label"] in out
    assert f"lora-dist: {bad.label}: failed" in err
    assert (folder.report / "report.md").exists()
