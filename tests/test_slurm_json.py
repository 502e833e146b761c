"""What `status --json` says of runs with and without jobs, and that a finished run's last hours were not lost."""

from __future__ import annotations

import json

from conftest import run_cli
from slurm_replies import FakeSlurm, sacct_line
from test_reporting_synthetic import Synthetic

from lora_dist.store.ledger import STARTED, write_event, write_submitted, write_submitting

KEYS = ["run", "label", "state", "stage", "done", "total", "attempts", "seconds", "reason", "log"]
MORE = [
    "job", "scheduler_state", "scheduler_reason", "nodes", "time_left_s", "gpu_hours_useful", "gpu_hours_lost", "cause",
    "action", "next",
]  # fmt: skip


def rows_of(made: Synthetic, slurm: FakeSlurm) -> list[dict]:
    done = run_cli("status", str(made.folder.path), "--json", cwd=slurm.folder)
    assert done.err == ""
    return json.loads(done.out)


def test_an_experiment_without_jobs_asks_no_scheduler_and_has_its_keys_alone(tmp_path, slurm):
    (row,) = rows_of(Synthetic(tmp_path / "e", {"lora": {}}), slurm)
    assert list(row) == KEYS
    assert slurm.calls() == []


def test_a_finished_run_s_last_attempt_is_useful_though_it_was_killed_before_it_wrote_its_end(tmp_path, slurm):
    made = Synthetic(tmp_path / "e", {"lora": {}})
    (run,) = made.runs
    told = {"job_name": "e.run.aaaa0001", "stage": "run", "runs": [run.id], "resources": {"gpus": 8}}
    write_submitting(made.folder.ledger, "aaaa0001", **told)
    write_submitted(made.folder.ledger, "aaaa0001", "7")
    made.finish(run, 2.5)
    write_event(made.folder.ledger, run.id, STARTED, job="7", restart=0, gpus=8)
    slurm.put("sacct", sacct_line("7", "COMPLETED", "e.run.aaaa0001", 1800, 8, start=100, end=1900))
    (row,) = rows_of(made, slurm)
    assert list(row) == [*KEYS, "cluster"]
    assert list(row["cluster"]) == MORE
    hours = (row["cluster"]["gpu_hours_useful"], row["cluster"]["gpu_hours_lost"])
    assert (row["state"], *hours) == ("completed", 4.0, 0.0)
