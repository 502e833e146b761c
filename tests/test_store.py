"""What is written is whole or not there, locks die with their owners, and damage is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lora_dist.errors import StorageError
from lora_dist.store.atomic import whole_folder, write_bytes, write_json
from lora_dist.store.attempts import close_lost_attempt
from lora_dist.store.environment import capture_environment
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.heartbeat import Heartbeat, read_beat
from lora_dist.store.histories import history_of
from lora_dist.store.ledger import ENDED, STARTED, write_event
from lora_dist.store.lines import append_line, read_lines
from lora_dist.store.lock import Held, exclusive, holder
from lora_dist.store.manifest import flaw_of, write_manifest
from lora_dist.store.record import read_record


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 KiB with almost nothing free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip(f"root, which may mount a small disk, {'is absent here'}")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(full_disk):
    path = full_disk / "file"
    write_bytes(path, b"old")
    with pytest.raises(StorageError, match="no space is left"):
        write_bytes(path, b"x" * 200_000)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in full_disk.iterdir()] == ["file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(ZeroDivisionError), whole_folder(target) as aside:
        (aside / "weights").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with whole_folder(target) as aside:
            (aside / "weights").write_text(text)
        assert (target / "weights").read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_process_was_filling_is_removed_by_the_next(tmp_path):
    code = (
        "import os, sys, signal; from pathlib import Path; from lora_dist.store.atomic import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as aside:\n"
        "    (aside / 'x').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with whole_folder(tmp_path / "model"):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_a_lock_names_its_owner_and_is_freed_when_the_owner_is_killed(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from lora_dist.store.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(Held) as caught, exclusive(path):
        pass
    assert caught.value.owner.pid == process.pid
    assert holder(path).pid == process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert holder(path) is None
    with exclusive(path):
        assert holder(path).pid == os.getpid()


def test_a_manifest_tells_every_kind_of_damage(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"a" * 100)
    (folder / "b.bin").write_bytes(b"b" * 100)
    assert flaw_of(folder) == "it has no readable manifest"
    write_manifest(folder, {"step": 3})
    assert flaw_of(folder) is None
    (folder / "a.bin").write_bytes(b"a" * 99)
    assert "99 bytes instead of 100" in flaw_of(folder)
    (folder / "a.bin").write_bytes(b"a" * 99 + b"b")
    assert "does not have the bytes" in flaw_of(folder)
    (folder / "a.bin").unlink()
    assert "a.bin is missing" in flaw_of(folder)


def test_a_torn_line_costs_only_itself(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append_line(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "torn')
    append_line(path, {"n": 3})
    assert [line["n"] for line in read_lines(path)] == [1, 3]


def test_several_processes_append_to_one_file_without_mixing(tmp_path):
    path = tmp_path / "ledger.jsonl"
    code = (
        "import sys; from pathlib import Path; from lora_dist.store.lines import append_line\n"
        "for n in range(200):\n"
        "    append_line(Path(sys.argv[1]), {'who': sys.argv[2], 'n': n, 'pad': 'x' * 300}, durable=False)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = list(read_lines(path))
    assert sorted((line["who"], line["n"]) for line in lines) == [(w, n) for w in "abc" for n in range(200)]


def test_attempts_count_the_time_of_killed_ones_by_their_heartbeat(tmp_path):
    folder = ExperimentFolder(tmp_path).run("lora-1")
    folder.create({})
    ledger = folder.experiment.ledger
    write_event(ledger, folder.id, STARTED)
    beat = Heartbeat(folder.heartbeat)
    time.sleep(0.3)
    beat("train", 3, 10, "")
    close_lost_attempt(folder)
    write_event(ledger, folder.id, STARTED, ranks=4)
    write_event(ledger, folder.id, ENDED, outcome="completed", seconds=2.0)
    write_event(ledger, "other", STARTED)
    history = history_of(ledger, folder.id)
    assert len(history.attempts) == 2
    assert 2.3 <= history.ended_seconds < 3
    assert 8.3 <= history.device_seconds < 9, "the second one was on 4 devices"
    assert read_beat(folder.heartbeat) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": "x"}', "\udcff"])
def test_a_corrupt_record_is_named_with_the_fix(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StorageError) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "delete this file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_environment_holds_versions_and_no_variables(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_token")
    environment = capture_environment()
    assert environment["packages"]["torch"]
    assert "hf_secret_token" not in json.dumps(environment)
