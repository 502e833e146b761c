"""What SLURM says is read as it is meant, and that it says nothing is never taken for an answer."""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from slurm_replies import NO_ACCOUNTING, NO_CONTROLLER, NO_DATABASE, SACCT, SQUEUE, FakeSlurm

from lora_dist.dispatch.scheduler import seen_jobs
from lora_dist.dispatch.scheduler_words import gpus_in, ids_in, moment_of, sacct_jobs, seconds_of, squeue_jobs, state_of


@pytest.fixture
def slurm(slurm) -> FakeSlurm:
    slurm.says(SQUEUE, SACCT)
    return slurm


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12", ["12"]),
        ("12_4", ["12_4"]),
        ("12_[3-5%2]", ["12_3", "12_4", "12_5"]),
        ("12_[3-5]", ["12_3", "12_4", "12_5"]),
        ("12_[0,2-3,7-11:2%4]", ["12_0", "12_2", "12_3", "12_7", "12_9", "12_11"]),
        ("12_[7]", ["12_7"]),
        ("12_[1,3,...]", ["12_1", "12_3", "12_..."]),
        ("12_[1,3,5...", ["12_1", "12_3", "12_..."]),
        ("12+0", ["12+0"]),
        ("", [""]),
    ],
)
def test_array_ids(text, ids):
    assert ids_in(text) == ids


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("CANCELLED by 0", ("CANCELLED", "by 0")),
        ("COMPLETED+", ("COMPLETED", "")),
        ("CANCELLED+", ("CANCELLED", "")),
        ("OUT_OF_ME+", ("OUT_OF_MEMORY", "")),
        ("COMPLETI+", ("COMPLETING", "")),
        ("NODE_FAIL", ("NODE_FAIL", "")),
        ("SOMETHING_NEW", ("SOMETHING_NEW", "")),
    ],
)
def test_states(text, state):
    assert state_of(text) == state


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:00", 0), ("5:00", 300), ("1:02:03", 3723), ("364-23:59:58", 364 * 86400 + 86398), ("2-03", 183600),
        ("27", 27),
        ("INVALID", None), ("UNLIMITED", None), ("NOT_SET", None), ("N/A", None), ("", None), ("soon", None),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


def test_times_are_epoch_seconds_or_this_machines_clock():
    assert moment_of("1795620104") == 1795620104
    assert moment_of("2026-11-25T12:00:00") == datetime(2026, 11, 25, 12).timestamp()
    assert [moment_of(text) for text in ("Unknown", "N/A", "None", "")] == [None] * 4


def test_gpus_are_counted_over_all_nodes_and_their_absence_is_not_none_of_them():
    assert gpus_in("billing=2,cpu=2,gres/gpu:a100=4,gres/gpu=4,mem=200M,node=2") == 4
    assert gpus_in("gres/gpu:a100=2,gres/gpu:v100=1") == 3
    assert gpus_in("gres/gpu=0") == 0
    assert gpus_in("billing=2,cpu=2,mem=200M,node=2") is None
    assert gpus_in("") is None


def test_free_text_and_foreign_lines_do_no_harm():
    lines = "2|RUNNING|node1|0:02|4:58|1795618767|None|exp.run.aaaa0002|a|b\nnot a line\n\n"
    (job,) = squeue_jobs(lines)
    assert (job.name, job.comment, job.left_s) == ("exp.run.aaaa0002", "a|b", 298)
    (job,) = sacct_jobs("2|RUNNING|0:0|3|cpu=1|1|node1|1795618767|Unknown|exp|x.run.aaaa0001\nslurm says hello\n")
    assert job.name == "exp|x.run.aaaa0001"


def test_a_look_at_recorded_replies(slurm):
    snapshot = seen_jobs(1795620000.0, jobs=[str(job) for job in range(1, 11)])
    assert snapshot.said_nothing == {}
    assert snapshot.has_accounting
    assert snapshot.queued("2_1").reason == "DependencyNeverSatisfied"
    assert [start.state for start in snapshot.accounted("7")] == ["PREEMPTED", "COMPLETED"]
    assert [start.elapsed_s for start in snapshot.accounted("7")] == [25, 300]
    assert snapshot.accounted("8_3")[0].state == "PENDING"
    assert snapshot.accounted("8_1") == []
    assert snapshot.queued("8_1") is None
    (cancelled,) = snapshot.accounted("10")
    assert (cancelled.state, cancelled.by, cancelled.gpus, cancelled.nodes) == ("CANCELLED", "by 0", 2, "node[1-2]")
    assert snapshot.jobs_named("aaaa0005") == {"5"}
    assert snapshot.jobs_named("aaaa0002") == {"2"}
    assert snapshot.jobs_named("0002") == set()


def test_two_commands_and_nothing_of_the_users_shell_in_their_way(slurm, monkeypatch):
    for name in ("SQUEUE_PARTITION", "SQUEUE_FORMAT2", "SACCT_FORMAT", "SLURM_CONF"):
        monkeypatch.setenv(name, "x")
    seen_jobs(1795620000.0, jobs=["5", "12"])
    calls = slurm.calls()
    assert len(calls) == 2
    (squeue,) = [call for call in calls if "--me" in call[0]]
    (sacct,) = [call for call in calls if "-X" in call[0]]
    assert "-r" in squeue[0]
    assert sacct[0][sacct[0].index("-j") + 1] == "5,12"
    begin = datetime.fromtimestamp(1795620000.0 - 120).strftime("%Y-%m-%dT%H:%M:%S")
    assert sacct[0][sacct[0].index("-S") + 1] == begin
    for _, variables in calls:
        assert {"SLURM_BITSTR_LEN", "SLURM_CONF", "SLURM_TIME_FORMAT"} <= set(variables)
        assert not [name for name in variables if name.startswith(("SQUEUE_", "SACCT_"))]


def test_a_list_of_elements_that_was_cut_off_hides_none(slurm):
    slurm.put("squeue", "12_[1-2,...]|PENDING||0:00|UNLIMITED|N/A|Resources|e.run.abc|(null)\n")
    snapshot = seen_jobs(0.0)
    assert snapshot.queued("12_900").reason == "Resources"
    assert snapshot.queued("13_900") is None


@pytest.mark.parametrize("command", ["squeue", "sacct"])
def test_a_missing_command_is_said(slurm, command):
    (slurm.folder / command).unlink()
    snapshot = seen_jobs(0.0)
    assert snapshot.said_nothing == {command: "is not installed here"}
    assert snapshot.queue_answers == (command == "sacct")
    assert snapshot.accounts_answer == (command == "squeue")
    assert snapshot.why_silent == f"{command} is not installed here"


def test_a_command_that_cannot_be_started_is_said(slurm):
    (slurm.folder / "squeue").chmod(0o644)
    assert seen_jobs(0.0).said_nothing["squeue"].startswith("cannot be started")


@pytest.mark.parametrize("command", ["squeue", "sacct"])
def test_a_hanging_command_is_left_after_the_time_given_and_ended(slurm, command, tmp_path):
    # A shell between, as where sites wrap the commands: what it has started must not keep us waiting either.
    marker = tmp_path / "alive"
    (slurm.folder / command).write_text(f"#!/bin/sh\n(/bin/sleep 2; echo > {marker}) &\n/bin/sleep 30\n")
    started = time.monotonic()
    snapshot = seen_jobs(0.0, timeout_s=1.0)
    assert time.monotonic() - started < 2.0
    assert snapshot.said_nothing == {command: "did not answer in time"}
    assert bool(snapshot.accounts) == (command == "squeue")
    assert bool(snapshot.queue) == (command == "sacct")
    time.sleep(2.0)
    assert not marker.exists()


def test_a_controller_or_a_database_that_is_down_is_said_in_a_line(slurm):
    slurm.put("squeue", error=NO_CONTROLLER, code=1)
    slurm.put("sacct", error=NO_DATABASE, code=1)
    snapshot = seen_jobs(0.0)
    assert snapshot.said_nothing == {
        "squeue": "failed: slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "sacct": "failed: sacct: error: Problem talking to the database: Connection refused",
    }
    assert snapshot.has_accounting  # it has; it does not answer
    assert not snapshot.queue_answers
    assert not snapshot.accounts_answer


def test_a_cluster_without_accounts_is_remembered_as_one(slurm):
    slurm.put("sacct", error=NO_ACCOUNTING, code=1)
    snapshot = seen_jobs(0.0)
    assert snapshot.said_nothing == {}
    assert not snapshot.has_accounting
    assert snapshot.queue["8_0"].reason == "JobHeldUser"
    before = len(slurm.calls())
    again = seen_jobs(0.0, has_accounting=snapshot.has_accounting)
    assert not again.has_accounting
    assert len(slurm.calls()) == before + 1


def test_output_larger_than_a_pipe_holds(slurm):
    slurm.put(
        "squeue", "".join(f"9_{n}|RUNNING|node1|0:02|4:58|1795618767|None|e.run.ab|(null)\n" for n in range(5000))
    )
    assert len(seen_jobs(0.0).queue) == 5000
