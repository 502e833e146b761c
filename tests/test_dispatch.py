"""The nursery: children that start quickly, die with it, and find the GPU untouched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_dist.dispatch.children import Nursery
from lora_dist.errors import WorkerCrashed


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_imported_beside_a_gpu_does_not_open_it():
    """bitsandbytes opens CUDA when it is imported; a forked child could not use the device then."""
    code = (
        "import importlib, sys; from lora_dist.dispatch.preload import OPENS_NO_DEVICE\n"
        "for name in OPENS_NO_DEVICE: importlib.import_module(name)\n"
        "print([name for name in ('bitsandbytes', 'peft', 'trl') if name in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_a_child_says_why_it_failed_in_its_log_and_by_its_code(tmp_path):
    log = tmp_path / "log"
    with Nursery() as nursery:
        ended = nursery.run("work_on", {"run_folder": str(tmp_path / "none")}, log=log, tick=lambda: None)
        assert (ended.code, ended.signal) == (2, None)
        assert "none" in log.read_text()
        started = time.monotonic()
        nursery.run("work_on", {"run_folder": str(tmp_path / "none")}, log=log, tick=lambda: None)
        assert time.monotonic() - started < 2  # the stack is not imported again


def test_a_nursery_that_dies_is_told_and_not_waited_for():
    nursery = Nursery()
    ticks = []

    def kill_it_once_it_runs():
        ticks.append(1)
        if len(ticks) == 2:
            os.kill(nursery._process.pid, signal.SIGKILL)

    with nursery, pytest.raises(WorkerCrashed):
        nursery.run("check", {}, log=None, tick=kill_it_once_it_runs)


def test_children_are_killed_when_the_input_closes(tmp_path):
    """Closing is all that happens when the process which started a nursery is killed."""
    code = (
        "import os, time, lora_dist.dispatch.actions as actions, lora_dist.dispatch.nursery as nursery\n"
        "actions.ACTIONS['sleep'] = lambda path: (open(path, 'w').write(str(os.getpid())), time.sleep(600))\n"
        "nursery.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert json.loads(process.stdout.readline()) == {"event": "ready"}
    told = tmp_path / "pid"
    request = {"id": 1, "action": "sleep", "arguments": {"path": str(told)}, "log": None, "environment": {}}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    process.stdin.flush()
    deadline = time.monotonic() + 20
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    child = Path("/proc") / told.read_text()
    assert child.exists()
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    process.stdout.close()
    deadline = time.monotonic() + 5
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.exists() or (child / "stat").read_text().split()[2] == "Z"


def test_help_and_the_light_verbs_import_no_torch():
    code = (
        "import sys, lora_dist.cli.app, lora_dist.verbs.recipes, lora_dist.verbs.status, lora_dist.verbs.report\n"
        "import lora_dist.verbs.preview, lora_dist.verbs.compare, lora_dist.config.schema\n"
        "import lora_dist.verbs.plan, lora_dist.verbs.clean, lora_dist.cli.plan_output, lora_dist.verbs.work\n"
        "import lora_dist.reporting.table, lora_dist.reporting.plots, lora_dist.verbs.merge\n"
        "import lora_dist.verbs.adapter_list, lora_dist.verbs.adapter_generate, lora_dist.cli.adapter_output\n"
        "import lora_dist.verbs.check_data, lora_dist.cli.check_output\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_the_public_names_are_these():
    names = run_python("import lora_dist; print([getattr(lora_dist, n) and n for n in lora_dist.__all__])")
    assert names == str(
        ["Experiment", "LoraDistError", "MergeRequest", "MergeResult", "Record", "Run", "UserError",
         "adapter_generate", "adapter_list", "cancel", "check_data", "clean", "compare", "evaluate", "evaluate_model",
         "load_experiment", "merge_adapters", "plan", "prefetch", "prune", "report", "retry", "status", "submit",
         "train"]
    )  # fmt: skip
