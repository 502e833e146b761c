"""What the terminal shows: the comparison in the width there is, and the state of every run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from test_reporting_synthetic import Synthetic, whole

from lora_dist.reporting.collect import collect
from lora_dist.reporting.status_table import status_line, status_table
from lora_dist.reporting.table import comparison_table, comparison_view
from lora_dist.store.atomic import write_text
from lora_dist.store.heartbeat import Heartbeat
from lora_dist.store.ledger import ENDED, STARTED, write_event
from lora_dist.store.lock import exclusive
from lora_dist.store.states import run_states
from lora_dist.verbs.status import status


def shown(view: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - closed with the process
    console.print(view)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_and_keeps_what_matters(tmp_path, width):
    text = shown(comparison_table(collect([whole(tmp_path / "e", seeds=[0, 1]).folder]), width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for title in ("arm", "test ppl", "vs base", "vs full"):
        assert title in text.splitlines()[1]
    for name in ("lora r4 seed 0", "full seed 1", "better", "worse", "reference"):
        assert name in text


def test_wide_terminals_show_every_column(tmp_path):
    text = shown(comparison_table(collect([whole(tmp_path / "e").folder]), 200), 200)
    for told in ("train ppl", "1.76M", "12.4k tok/s", "812 MiB", "50 tok/s", "13.2 s"):
        assert told in text


def test_the_view_has_answer_failures_and_notes(tmp_path):
    made = Synthetic(tmp_path / "e")
    made.finish(made.of("base"), 3.0)
    made.finish(made.of("lora"), 2.5)
    made.end(made.of("full"), "failed", "[bold]CUDA out of memory[/bold] \x1b[31mred")
    text = shown(comparison_view(collect([made.folder]), 120), 120)
    assert "Is LoRA enough? Open" in text
    assert "[bold]CUDA out of memory[/bold]" in text  # somebody else's brackets are not our markup
    assert "\x1b" not in text
    assert str(made.folder.run(made.of("full").id).log) in text.replace("\n", "").replace(" ", "")
    assert "No finished full fine-tuning run" in text


def test_every_state_is_told_from_the_folder(tmp_path):
    arms = {name: {"train": {"max_steps": index + 1}} for index, name in enumerate("abcdefg")}
    made = Synthetic(tmp_path / "e", arms)
    made.finish(made.of("a"), 2.5)
    made.end(made.of("b"), "failed", "out of memory")
    made.end(made.of("c"), "refused", "data.columns: no such column")
    made.end(made.of("d"), "interrupted", "stopped by SIGTERM at step 4")
    made.begin(made.of("e"))
    running = made.begin(made.of("f"))
    Heartbeat(running.heartbeat)("train", 40, 90)
    with exclusive(running.lock):
        rows = status(made.folder.path)
    states = {row.label.split()[0]: row.state for row in rows}
    assert states == {
        "a": "completed", "b": "failed", "c": "refused", "d": "interrupted", "e": "stale", "f": "running",
        "g": "waiting",
    }  # fmt: skip
    by_state = {row.state: row for row in rows}
    assert (by_state["running"].stage, by_state["running"].done, by_state["running"].total) == ("train", 40, 90)
    assert run_states(made.folder, [run.id for run in made.runs])[5].doing == ""  # it has let go of its lock
    assert by_state["failed"].reason == "out of memory"
    assert by_state["failed"].seconds == 3.0
    assert by_state["waiting"].log is None
    assert status_line(rows) == ("1 running, 1 waiting, 1 failed, 1 refused, 1 interrupted, 1 stale, 1 completed")
    text = shown(status_table(rows), 120)
    assert "train 40/90" in text
    assert "data.columns: no such column" in text


def test_an_attempt_that_was_killed_is_stale_until_somebody_says_how_it_ended(tmp_path):
    made = Synthetic(tmp_path / "e", {"lora": {}})
    folder = made.end(made.of("lora"), "failed", "out of memory")
    folder.outcome.unlink()  # what a worker does first
    write_event(made.folder.ledger, folder.id, STARTED)
    Heartbeat(folder.heartbeat)("train", 7, 90)
    (row,) = status(made.folder.path)
    assert (row.state, row.attempts) == ("stale", 2)
    assert "last seen in train 7/90" in row.reason
    write_event(made.folder.ledger, folder.id, ENDED, seconds=2.0, outcome="lost")
    assert status(made.folder.path)[0].state == "stale"
    write_event(made.folder.ledger, folder.id, ENDED, seconds=4.0, outcome="interrupted", message="stopped by SIGTERM")
    (row,) = status(made.folder.path)
    assert (row.state, row.reason, row.seconds) == ("interrupted", "stopped by SIGTERM", 9.0)


def test_a_run_being_measured_again_is_not_completed(tmp_path):
    made = whole(tmp_path / "e", arms={"lora": {}})
    folder = made.folder.run(made.of("lora").id)
    with exclusive(folder.lock):
        assert status(made.folder.path)[0].state == "running"
    assert status(made.folder.path)[0].state == "completed"
    folder.record.unlink()
    assert status(made.folder.path)[0].state == "waiting"


def test_the_state_of_2000_runs_costs_ten_times_as_much_as_of_200(tmp_path):
    few, many = (seconds_of_status(tmp_path / str(runs), runs) for runs in (200, 2000))
    assert many < 30 * few  # were it quadratic: 100


def seconds_of_status(folder: Path, runs: int) -> float:
    """Of this process, which others on the same machine do not lengthen; half of the runs have a record and ledger."""
    made = Synthetic(folder, {"lora": {}}, seeds=list(range(runs)))
    done = made.finish(made.runs[0], 2.5)
    lines = made.folder.ledger.read_text().splitlines()
    finished = made.runs[: runs // 2]
    for run in finished[1:]:
        made.folder.run(run.id).path.mkdir()
        record = done.read_record().model_copy(update={"run_id": run.id, "seed": run.seed})
        made.folder.run(run.id).record.write_text(record.model_dump_json())
    made.folder.ledger.write_text("".join(f"{line}\n".replace(done.id, run.id) for run in finished for line in lines))
    started = time.process_time()
    rows = status(made.folder.path)
    took = time.process_time() - started
    assert status_line(rows) == f"{runs // 2:,} waiting, {runs // 2:,} completed"
    return took


def test_a_table_of_80_arms_costs_ten_times_as_much_as_of_8(tmp_path):
    few, many = (seconds_of_table(tmp_path / str(rates), rates) for rates in (8, 80))
    assert many < 30 * few  # were it quadratic: 100


def seconds_of_table(folder: Path, rates: int) -> float:
    made = whole(folder, arms={"swept": {"grid": {"train.learning_rate": [n * 1e-5 for n in range(1, rates + 1)]}}})
    comparison = collect([made.folder])
    started = time.process_time()
    shown(comparison_view(comparison, 100), 100)
    return time.process_time() - started


def test_a_broken_experiment_file_is_the_users_to_mend(tmp_path):
    from lora_dist.errors import UserError

    made = Synthetic(tmp_path / "e", {"lora": {}})
    write_text(made.folder.experiment, "model: [")
    with pytest.raises(UserError):
        status(made.folder.path)


HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "accelerate")
PROGRAM = """
import importlib, pkgutil, sys
import lora_dist.reporting as room
for module in pkgutil.iter_modules(room.__path__):
    importlib.import_module(f"lora_dist.reporting.{module.name}")
print([name for name in sys.argv[1:] if name in sys.modules])
"""


def test_reporting_imports_no_torch_and_no_plotting():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *HEAVY, "matplotlib"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
