"""A run that was stopped ends as if it had not been, bit for bit, whatever became of its newest checkpoint."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
from ranks_cases import lasting
from training_cases import Stopped, prepare, stop_at
from training_cases import one_thread as one_thread

from lora_dist.errors import ConfigError
from lora_dist.training.checkpoints import Makers, find_resume, seal, sealed

# 43 rows make 6 steps of 8 an epoch: a run that stops after step 5 goes on from step 4, in the midst of the first.
TRAIN = {"max_steps": 9, "global_batch_size": 8, "micro_batch_size": 4, "checkpoint_steps": 2, "keep_checkpoints": 2}
METHODS = {
    "lora": {"kind": "lora", "dropout": 0.1},
    "qlora": {"kind": "qlora", "dropout": 0.1},
    "partial": {"kind": "partial", "top_blocks": 1},
    "full": {"kind": "full"},
}
EVALUATE = {"samples": 0, "bootstrap_samples": 100}


@pytest.fixture
def pair(tmp_path, tiny_model, problem_files):
    """Two runs of one config: the first is trained undisturbed, to its record; the second is for the test to stop."""

    def make(kind="lora", **sections):
        sections = {"method": METHODS[kind], "train": TRAIN, "evaluate": EVALUATE, **sections}
        calm = prepare(tmp_path / "calm", tiny_model, problem_files, **sections)
        stopped = prepare(tmp_path / "stopped", tiny_model, problem_files, **sections)
        return calm, calm.work(), stopped

    return make


def assert_same(calm, record, stopped):
    resumed = stopped.work()
    assert stopped.bytes == calm.bytes
    assert lasting(stopped.lines) == lasting(calm.lines)
    for split, scores in record.evaluate.items():
        assert resumed.evaluate[split]["nll_sum"] == scores["nll_sum"]
        assert resumed.evaluate[split]["perplexity"] == scores["perplexity"]
    assert not list(stopped.folder.checkpoints.glob("checkpoint-*"))
    return resumed


@pytest.mark.parametrize(
    "kind", ["lora", *(pytest.param(kind, marks=pytest.mark.slow) for kind in METHODS if kind != "lora")]
)
def test_a_killed_run_goes_on_bit_for_bit(pair, kind):
    calm, record, stopped = pair(kind)
    stopped.killed_at(5)
    assert stopped.checkpoints == ["step-2", "step-4"]
    assert len(stopped.lines) == 5
    assert not stopped.folder.model.exists()
    resumed = assert_same(calm, record, stopped)
    assert resumed.train.resumed_from_steps == [4]
    assert resumed.attempts == 2
    assert record.train.resumed_from_steps == []


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 10))
def test_it_does_not_matter_where_a_run_stops(pair, step):
    calm, record, stopped = pair()
    with pytest.raises(Stopped):
        stopped.train(stop_at(step))
    assert_same(calm, record, stopped)


def test_a_run_that_is_stopped_twice_and_between_epochs_goes_on(pair):
    calm, record, stopped = pair()
    for step in (5, 7):  # step 6 ends the first epoch
        with pytest.raises(Stopped):
            stopped.train(stop_at(step))
    resumed = assert_same(calm, record, stopped)
    assert resumed.train.resumed_from_steps == [4, 6]


def test_the_newest_checkpoint_damaged_falls_back_to_the_one_before_and_says_so(pair, caplog):
    calm, record, stopped = pair()
    with pytest.raises(Stopped):
        stopped.train(stop_at(5))
    truncate(stopped.folder.checkpoints / "step-4" / "optimizer.pt")
    shutil.copytree(stopped.folder.checkpoints / "step-4", stopped.folder.checkpoints / "checkpoint-6")
    with caplog.at_level(logging.INFO, logger="lora_dist"):
        resumed = assert_same(calm, record, stopped)
    assert resumed.train.resumed_from_steps == [2]
    assert "passing over checkpoint step-4: optimizer.pt has" in caplog.text
    assert "going on from step-2" in caplog.text
    assert stopped.checkpoints == ["step-6", "step-8"]


def test_with_no_checkpoint_left_whole_a_run_begins_anew(pair):
    calm, record, stopped = pair()
    with pytest.raises(Stopped):
        stopped.train(stop_at(5))
    for path in sealed(stopped.folder.checkpoints):
        (path / "manifest.json").unlink()
    resumed = assert_same(calm, record, stopped)
    assert resumed.train.resumed_from_steps == []


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"truncated": truncate, "emptied": empty, "deleted": lambda path: path.unlink(), "one bit changed": flip}


@pytest.fixture
def stopped(tmp_path, tiny_model, problem_files):
    """A run that stopped at its fifth step."""
    case = prepare(tmp_path, tiny_model, problem_files, train=TRAIN)
    with pytest.raises(Stopped):
        case.train(stop_at(5))
    return case


def makers_of(case):
    return Makers(case.folder.id, 1, "plain")


def resume_of(case, world_size=1):
    strategy = "plain" if world_size == 1 else "zero2"
    return find_resume(case.folder.checkpoints, makers=Makers(case.folder.id, world_size, strategy))


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_file_of_a_checkpoint_damaged_is_noticed(stopped, tmp_path, damage):
    newest = stopped.folder.checkpoints / "step-4"
    names = sorted(path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file())
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "manifest.json"} <= set(names)
    for name in names:
        whole = newest.with_name("whole")
        shutil.copytree(newest, whole)
        DAMAGES[damage](newest / name)
        resume = resume_of(stopped)
        if (name, damage) == ("manifest.json", "one bit changed") and resume.step == 4:
            pass  # such as a blank that became another blank: what the manifest says is the same
        else:
            assert (resume.step, len(resume.skipped)) == (2, 1), name
            assert ("manifest" if name == "manifest.json" else name) in resume.skipped[0] or damage == "one bit changed"
        shutil.rmtree(newest)
        whole.rename(newest)
    assert resume_of(stopped).step == 4


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted"])
def test_a_run_ends_the_same_whichever_file_was_damaged(pair, damage):
    calm, record, stopped = pair()
    with pytest.raises(Stopped):
        stopped.train(stop_at(5))
    pristine = stopped.folder.path.with_name("pristine")
    shutil.copytree(stopped.folder.path, pristine)
    newest = stopped.folder.checkpoints / "step-4"
    for name in sorted(path.name for path in newest.iterdir()):
        DAMAGES[damage](newest / name)
        assert assert_same(calm, record, stopped).train.resumed_from_steps[-1] == 2, name
        shutil.rmtree(stopped.folder.path)
        shutil.copytree(pristine, stopped.folder.path)


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_newest_checkpoints_are_kept_and_none_of_the_last_step(tmp_path, tiny_model, problem_files, keep):
    train = {**TRAIN, "max_steps": 8, "checkpoint_steps": 1, "keep_checkpoints": keep}
    case = prepare(tmp_path, tiny_model, problem_files, train=train)
    seen = []
    case.train(lambda *_: seen.append(len(sealed(case.folder.checkpoints))))
    assert case.checkpoints == [f"step-{step}" for step in range(8 - keep, 8)]
    assert max(seen) == keep


def test_a_damaged_later_checkpoint_does_not_count_as_kept(stopped):
    folder = stopped.folder.checkpoints
    empty(folder / "step-4" / "optimizer.pt")
    shutil.copytree(folder / "step-2", folder / "checkpoint-3")
    seal(folder, 3, makers=makers_of(stopped), keep=1)
    assert [path.name for path in sealed(folder)] == ["step-3"]
    assert resume_of(stopped).step == 3


def test_a_checkpoint_says_whose_it_is(stopped):
    manifest = json.loads((stopped.folder.checkpoints / "step-4" / "manifest.json").read_text())
    assert (manifest["step"], manifest["run"], manifest["world_size"]) == (4, stopped.folder.id, 1)
    newer = max(path.stat().st_mtime_ns for path in (stopped.folder.checkpoints / "step-4").iterdir())
    assert (stopped.folder.checkpoints / "step-4" / "manifest.json").stat().st_mtime_ns == newer
    foreign = find_resume(stopped.folder.checkpoints, makers=Makers("lora-00000000", 1, "plain"))
    assert foreign.step == 0
    assert foreign.skipped[0] == f"step-4: it belongs to run {stopped.folder.id}"


def test_another_number_of_ranks_is_refused_and_nothing_is_lost(stopped):
    with pytest.raises(ConfigError, match=r"by 1 rank, and this is a run of 2 ranks \(zero2\); start it with 1 rank"):
        resume_of(stopped, world_size=2)
    assert stopped.checkpoints == ["step-2", "step-4"]
