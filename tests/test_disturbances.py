"""What happens to a comparison that is killed, loses a worker, or is started twice: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparison_cases import METHODS, record, run_folder, weights, write
from conftest import run_cli

from lora_dist.store.heartbeat import read_beat
from lora_dist.store.lines import read_lines


def start_compare(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "lora_dist", "compare", "small.yaml"], cwd=folder, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, what: str, seconds: float = 120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"waited {seconds} s for {what}")


def lines_of(folder: Path, arm: str) -> int:
    (found,) = list(folder.glob(f"runs/small/{arm}-*/metrics.jsonl")) or [None]
    return len(list(read_lines(found))) if found else 0


def processes_in(folder: Path) -> list[int]:
    """The processes whose current folder is `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == folder.resolve():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.slow  # four runs twice; one run alone is among the tests of interruptions
def test_killed_in_the_third_run_and_repeated_it_ends_as_if_undisturbed(tmp_path, tiny_model, problem_files):
    arms = {name: METHODS[name] for name in ("base", "lora", "full")}
    train = {"max_steps": 60, "checkpoint_steps": 4, "learning_rate": 0.002, "micro_batch_size": 4}
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    for folder in (disturbed, undisturbed):
        folder.mkdir()
        write(folder, tiny_model, problem_files, arms=arms, train=train)
    process = start_compare(disturbed)
    wait_for(lambda: lines_of(disturbed, "full") >= 14, "the third run's 14th step")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    wait_for(lambda: not processes_in(disturbed), "the children's end", seconds=10)
    assert lines_of(disturbed, "full") < 60
    finished = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for arm in ("base", "lora")
        for path in run_folder(disturbed, arm).rglob("*")
        if path.is_file()
    }
    assert run_cli("compare", "small.yaml", cwd=disturbed).code == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in finished} == finished
    resumed = record(disturbed, "full")
    assert resumed["train"]["resumed_from_steps"]
    assert resumed["attempts"] == 2
    assert run_cli("compare", "small.yaml", cwd=undisturbed).code == 0
    for arm in arms:
        ours, theirs = record(disturbed, arm), record(undisturbed, arm)
        assert ours["run_id"] == theirs["run_id"]
        for split in ("train", "test"):
            for number in ("nll_sum", "scored_tokens", "perplexity", "bits_per_byte", "ci95"):
                assert ours["evaluate"][split][number] == theirs["evaluate"][split][number]
    assert weights(disturbed, "lora") == weights(undisturbed, "lora")
    assert weights(disturbed, "full") == weights(undisturbed, "full")


def test_a_run_whose_process_dies_does_not_stop_the_others(tmp_path, tiny_model, problem_files):
    arms = {"lora": METHODS["lora"], "base": METHODS["base"]}
    write(tmp_path, tiny_model, problem_files, arms=arms, train={"max_steps": 400})
    process = start_compare(tmp_path)
    wait_for(lambda: lines_of(tmp_path, "lora") >= 3, "the first run's 3rd step")
    os.kill(read_beat(run_folder(tmp_path, "lora") / "heartbeat.json").pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    log = run_folder(tmp_path, "lora").relative_to(tmp_path) / "logs" / "worker.log"
    (line,) = [line for line in err.splitlines() if "SIGKILL" in line]
    assert str(log) in line
    assert record(tmp_path, "base")["status"] == "completed"
    outcome = json.loads((run_folder(tmp_path, "lora") / "outcome.json").read_text())
    assert outcome["outcome"] == "failed"
    done = run_cli("status", "runs/small", cwd=tmp_path)
    assert done.code == 3
    assert "failed" in done.out


def test_two_comparisons_on_one_folder_share_the_runs(tmp_path, tiny_model, problem_files):
    write(tmp_path, tiny_model, problem_files, arms=METHODS, train={"max_steps": 60})
    both = [start_compare(tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    events = list(read_lines(tmp_path / "runs" / "small" / "ledger.jsonl"))
    started = [event["run"] for event in events if event["event"] == "started"]
    assert sorted(started) == sorted(run_folder(tmp_path, arm).name for arm in METHODS)
    assert "elsewhere" in "".join(said)
    assert all(f"process {process.pid}" not in text for process, text in zip(both, said, strict=True))
