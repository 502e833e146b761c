"""Ctrl-C, as a terminal sends it: to every process of the command at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from conftest import run_cli

LONG = {"max_steps": 60, "checkpoint_steps": 5}
NO_SAMPLES = {"samples": 0, "splits": ["test"]}
SOON_S = 5.0
"""Within this a command that was interrupted, and all its processes, are gone; it takes about 0.3 s."""


def start(*words, cwd):
    """`lora-dist WORDS` as the leader of a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lora_dist", *map(str, words)],
        cwd=cwd, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def interrupt(process):
    """Ctrl-C; returns the exit code, what was said, and whether every process of the group is gone."""
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=SOON_S)
    deadline = time.monotonic() + SOON_S
    while is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.returncode, out, err, not is_alive(process.pid)


def is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, process, timeout=90):
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_interrupted_training_leaves_no_process_and_the_same_command_resumes_it(tmp_path, write_experiment):
    experiment = write_experiment(train=LONG, evaluate=NO_SAMPLES)
    process = start("compare", experiment, cwd=tmp_path)
    wait_until(lambda: list(tmp_path.glob("runs/small/*/checkpoints/step-*/manifest.json")), process)
    code, out, err, gone = interrupt(process)
    assert code == 4
    assert err.splitlines()[-1] == "interrupted: what is finished is kept; the same command resumes"
    assert "stopping" in err
    assert out == ""
    assert gone
    steps = len(next(tmp_path.glob("runs/small/*/metrics.jsonl")).read_text().splitlines())
    assert list(tmp_path.glob(f"runs/small/*/checkpoints/step-{steps}/manifest.json")), "saved where it stopped"

    status = run_cli("status", "runs/small", "--json", cwd=tmp_path)
    assert [run["state"] for run in json.loads(status.out)] == ["interrupted"]

    again = run_cli("compare", experiment, cwd=tmp_path)
    assert again.code == 0, again.err
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/small/*/record.json"))
    assert record["train"]["steps"] == LONG["max_steps"]
    assert record["train"]["resumed_from_steps"] == [steps]
    assert record["attempts"] == 2


def test_interrupted_checks_leave_nothing(tmp_path, write_experiment):
    process = start("compare", write_experiment(), cwd=tmp_path)
    wait_until((tmp_path / "runs" / "small").exists, process)
    time.sleep(1.0)  # in the middle of the imports
    code, _, err, gone = interrupt(process)
    assert code == 4
    assert err.splitlines() == ["interrupted: what is finished is kept; the same command resumes"]
    assert gone
    assert not (tmp_path / "runs" / "small").exists()
