"""The lines of metrics.jsonl, the figures made of them, and how a run that fails says so."""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_cases import one_thread as one_thread
from training_cases import prepare

from lora_dist.errors import Refused, StorageError, TrainingDiverged
from lora_dist.store.atomic import whole_folder
from lora_dist.store.manifest import flaw_of
from lora_dist.training.metrics import cut_back, figures_of

LINE = {
    "step": int, "epoch": float, "loss": float, "learning_rate": float, "gradient_norm": float, "seconds": float,
    "tokens": int, "scored_tokens": int, "warm_up": bool,
}  # fmt: skip


@pytest.fixture
def case(tmp_path, tiny_model, problem_files):
    def make(**sections):
        return prepare(tmp_path, tiny_model, problem_files, **sections)

    return make


def test_each_step_has_one_line_of_this_shape(case):
    run = case()
    started = time.perf_counter()
    run.train()
    elapsed = time.perf_counter() - started
    assert [{name: type(value) for name, value in line.items()} for line in run.lines] == [LINE] * 6
    assert [line["step"] for line in run.lines] == [1, 2, 3, 4, 5, 6]
    assert [line["warm_up"] for line in run.lines] == [True, True, False, False, False, False]
    assert all(line["seconds"] > 0 and line["gradient_norm"] > 0 for line in run.lines)
    assert all(line["tokens"] > line["scored_tokens"] > 0 for line in run.lines)
    assert sum(line["seconds"] for line in run.lines) < elapsed


def test_the_summary_is_what_the_lines_add_up_to(case):
    run = case()
    run.train()
    train, lines = run.summary["train"], run.lines
    steady = lines[2:]
    assert train["tokens"] == sum(line["tokens"] for line in lines)
    assert train["tokens_per_second"] == pytest.approx(
        sum(line["tokens"] for line in steady) / sum(line["seconds"] for line in steady)
    )
    assert train["final_loss"] == lines[-1]["loss"]
    assert (train["steps"], train["world_size"], train["global_batch_size"]) == (6, 1, 8)
    assert train["micro_batch_size"] * train["accumulation"] == 8
    assert train["zero_stage"] == 0
    assert train["learning_rate"] == 0.005
    if not torch.cuda.is_available():
        assert train["peak_memory_kind"] == "resident"
        assert 100 * 2**20 < train["peak_memory_bytes"] < 16 * 2**30  # the stack alone is a few hundred MiB


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def hand_made(step, seconds, tokens, *, loss=1.0, scored=10, warm_up=False):
    return {
        "step": step, "epoch": step / 4, "loss": loss, "learning_rate": 0.1, "gradient_norm": 1.0, "seconds": seconds,
        "tokens": tokens, "scored_tokens": scored, "warm_up": warm_up,
    }  # fmt: skip


def test_figures_of_lines_worked_out_by_hand(tmp_path):
    lines = [
        hand_made(1, 9.0, 100, warm_up=True),
        hand_made(2, 5.0, 100, warm_up=True),
        *(hand_made(step, 2.0, 300) for step in range(3, 19)),
        hand_made(19, 1.0, 100, loss=2.0, scored=30),
        hand_made(20, 7.0, 100, loss=5.0, scored=10),
    ]
    figures = figures_of(write_lines(tmp_path / "metrics.jsonl", lines), steps_per_epoch=4)
    assert (figures.steps, figures.epochs) == (20, 5.0)
    assert figures.tokens == 200 + 16 * 300 + 200
    assert figures.scored_tokens == 18 * 10 + 30 + 10
    assert figures.seconds == 9 + 5 + 16 * 2 + 1 + 7
    assert figures.seconds_per_epoch == 2.0 * 4  # the median of the steady steps
    assert figures.tokens_per_second == (16 * 300 + 200) / (16 * 2 + 1 + 7)
    assert figures.final_loss == (2.0 * 30 + 5.0 * 10) / 40  # the last two of twenty, by their tokens


def test_a_run_of_nothing_but_warm_up_still_has_rates(tmp_path):
    lines = [hand_made(1, 4.0, 100, warm_up=True), hand_made(2, 1.0, 100, warm_up=True)]
    figures = figures_of(write_lines(tmp_path / "metrics.jsonl", lines), steps_per_epoch=2)
    assert figures.tokens_per_second == 200 / 5
    assert figures.seconds_per_epoch == 5.0


def test_cutting_back_drops_later_steps_and_a_torn_line(tmp_path):
    metrics = write_lines(tmp_path / "metrics.jsonl", [hand_made(step, 1.0, 1) for step in (1, 2, 3)])
    with metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    cut_back(metrics, 2)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2]
    cut_back(tmp_path / "new.jsonl", 0)
    assert (tmp_path / "new.jsonl").read_text() == ""


def test_a_steps_time_leaves_out_the_saving(case, monkeypatch):
    real = os.fsync

    def slow_disk(handle):
        time.sleep(0.05)
        real(handle)

    monkeypatch.setattr(os, "fsync", slow_disk)
    run = case(train={"checkpoint_steps": 1, "max_steps": 5})
    started = time.perf_counter()
    run.train()
    elapsed = time.perf_counter() - started
    assert run.checkpoints == ["step-3", "step-4"]
    seconds = [line["seconds"] for line in run.lines]
    assert elapsed > sum(seconds) + 4 * 0.4, "a checkpoint has a dozen files to flush"
    assert statistics.median(seconds) < 0.3, seconds


def test_a_rate_far_too_large_ends_with_the_step_and_leaves_no_model(case):
    run = case(train={"learning_rate": 1e30, "warmup_fraction": 0.0})
    with pytest.raises(TrainingDiverged):
        run.work()
    outcome = run.folder.read_outcome()
    assert outcome["outcome"] == "failed"
    assert outcome["message"].startswith("the loss is nan at step 2 of 6; lower train.learning_rate (it is 1e+30)")
    assert not run.folder.model.exists()
    assert not run.folder.training.exists()
    assert not run.folder.record.exists()
    assert run.checkpoints == []
    assert [line["step"] for line in run.lines] == [1]
    assert all(math.isfinite(value) for line in run.lines for value in line.values())


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_weights_that_are_nan_from_the_start_are_noticed_at_the_first_step(tmp_path, tiny_model, problem_files, kind):
    broken = tmp_path / "broken"
    with whole_folder(broken) as aside:
        for path in tiny_model.iterdir():
            (aside / path.name).write_bytes(path.read_bytes())
        weights = load_file(aside / "model.safetensors")
        weights["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
        save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
    run = prepare(tmp_path / "out", broken, problem_files, method={"kind": kind})
    with pytest.raises(TrainingDiverged, match="loss is nan at step 1 of 6"):
        run.work()
    assert run.folder.read_outcome()["outcome"] == "failed"
    assert not run.folder.model.exists()


def test_a_run_that_fails_keeps_its_checkpoints_whole(case):
    run = case(train={"checkpoint_steps": 1})

    def fail(step, *_):
        if step == 3:
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError):
        run.train(fail)
    assert run.checkpoints == ["step-1", "step-2"]
    assert all(flaw_of(path) is None for path in run.folder.checkpoints.iterdir())


@pytest.mark.parametrize(
    "largest", [100_000, 200_000]
)  # too small for the adapter (safetensors), the optimizer (torch)
def test_a_disk_that_takes_no_more_is_said_plainly_and_half_a_checkpoint_is_removed(case, largest):
    run = case()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        with pytest.raises(StorageError, match=r"checkpoint-2: cannot be written \(.+\); free some space"):
            run.work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.folder.read_outcome()["outcome"] == "refused"
    assert run.checkpoints == []
    assert not run.folder.model.exists()
    assert run.work().status == "completed"


def test_fields_of_trl_reach_the_trainer(tmp_path, tiny_model, problem_files):
    extra = {"adam_beta1": 0.5, "adam_epsilon": "1e-6", "optim": "adamw_torch_fused", "neftune_noise_alpha": 5}
    plain, noisy = (
        prepare(tmp_path / str(len(given)), tiny_model, problem_files, train={"extra": given, "max_steps": 3})
        for given in ({}, extra)
    )
    plain.train()
    noisy.train()
    groups = torch.load(noisy.folder.checkpoints / "step-2" / "optimizer.pt", weights_only=True)["param_groups"]
    assert {(group["betas"][0], group["eps"], group["fused"]) for group in groups} == {(0.5, 1e-6, True)}
    assert noisy.losses[0] != plain.losses[0], "NEFTune adds noise to the embeddings from the first step on"


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({"adam_bet1": 0.5}, "train.extra.adam_bet1: is not a field of TRL's SFTConfig; did you mean 'adam_beta1'?"),
        ({"learning_rate": 1}, "train.extra.learning_rate: is set elsewhere by lora_dist; use train.learning_rate"),
        ({"activation_checkpointing": True}, "use train.gradient_checkpointing"),
        ({"auto_find_batch_size": True}, "use train.micro_batch_size"),
        ({"ignore_data_skip": True}, "must see what it would have seen"),
        ({"assistant_only_loss": True}, "train.extra.assistant_only_loss: is set elsewhere by lora_dist; use data"),
        ({"adam_beta1": "large"}, "train.extra.adam_beta1: 'large': Input should be a valid number"),
        ({"dataloader_num_workers": 1.5}, "train.extra.dataloader_num_workers: 1.5: Input should be a valid integer"),
        ({"optim": "adamw"}, "train.extra: "),
    ],
)
def test_fields_that_trl_does_not_know_or_we_set_are_refused(case, extra, line):
    with pytest.raises(Refused) as refused:
        case(train={"extra": extra})
    assert line in str(refused.value)
    assert len(refused.value.problems) == 1


def test_a_tracker_that_is_not_there_is_refused(case):
    with pytest.raises(Refused, match=r"train\.report_to: the tracker 'nonsuch' is not available here; pip install"):
        case(train={"report_to": ["nonsuch"]})
