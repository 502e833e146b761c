"""The same run on one rank or several, under DDP or a stage of ZeRO: the same losses, the same model."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from ranks_cases import METHODS, Ranks, record, weights
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from lora_dist.models.adapters import put_adapter

# Sums of float32 in another order: 2e-7 of a loss was seen, growing slowly with the steps.
MOST_DEVIATION, MOST_DRIFT, PERPLEXITY = 1e-5, 1e-6, 1e-4
STAGES = {"plain": 0, "ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3}
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_model, problem_files):
    """What one rank makes of each method, trained when it is first asked for."""
    ranks = Ranks.make(tmp_path_factory.mktemp("plain"), tiny_model, problem_files)
    folders = {}

    def train(arm):
        if arm not in folders:
            folders[arm] = ranks.train("plain", arm)
        return ranks, folders[arm]

    return train


def assert_same_trajectory(ours, theirs):
    assert [line["scored_tokens"] for line in ours] == [line["scored_tokens"] for line in theirs]
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs]
    deviations = [mine["loss"] / other["loss"] - 1 for mine, other in zip(ours, theirs, strict=True)]
    assert max(map(abs, deviations)) < MOST_DEVIATION
    assert abs(sum(deviations) / len(deviations)) < MOST_DRIFT


@pytest.mark.parametrize(
    ("strategy", "arm"),
    [
        ("ddp", "lora"),
        ("zero2", "full"),
        ("zero3", "sparse"),
        *(
            pytest.param(strategy, arm, marks=SLOW)
            for strategy, arm in [
                ("ddp", "full"), ("zero1", "lora"), ("zero1", "full"), ("zero2", "lora"), ("zero3", "full"),
                ("ddp", "qlora"), ("zero2", "qlora"), ("ddp", "partial"), ("zero2", "partial"), ("zero3", "partial"),
                ("ddp", "sparse"), ("zero2", "sparse"), ("zero3", "lora"),
                ("ddp", "prefix"), ("zero2", "prefix"), ("zero2", "ia3"), ("zero3", "ia3"),
            ]
        ),
    ],
)  # fmt: skip
def test_two_ranks_train_what_one_does(tmp_path, tiny_model, problem_files, plain, strategy, arm):
    alone, reference = plain(arm)
    ranks = Ranks.make(tmp_path, tiny_model, problem_files)
    folder = ranks.train(strategy, arm)
    assert_same_trajectory(ranks.lines(arm), alone.lines(arm))
    ours, theirs = record(folder), record(reference)
    for split in ("train", "test"):
        one, other = ours["evaluate"][split], theirs["evaluate"][split]
        assert one["scored_tokens"] == other["scored_tokens"]
        assert one["perplexity"] == pytest.approx(other["perplexity"], rel=PERPLEXITY)
    base = record(plain("base")[1])["evaluate"]["test"]["perplexity"]
    if arm == "sparse":
        assert_merged_has_the_zeros_of_its_base(folder)
    assert ours["evaluate"]["test"]["perplexity"] < 0.95 * base, "an equality of nothing proves nothing"
    assert ours["train"]["zero_stage"] == STAGES[strategy]
    assert ours["train"]["world_size"] == 2
    for key in ("parameters_total", "parameters_trainable", "trainable_dtype", "quantization"):
        assert ours["model"][key] == theirs["model"][key]
    assert set(weights(folder)) == set(weights(reference))


def assert_merged_has_the_zeros_of_its_base(folder):
    base, other = (AutoModelForCausalLM.from_pretrained(folder / "pruned", dtype=torch.float32) for _ in range(2))
    merged = dict(put_adapter(other, folder / "model").merge_and_unload().named_parameters())
    assert all(torch.equal(merged[name] == 0, weight == 0) for name, weight in base.named_parameters())
    assert any(not torch.equal(merged[name], weight) for name, weight in base.named_parameters())
    trained, after = record(folder)["merging"]
    assert (trained["form"], after["form"], after["filled"]) == ("adapter", "merged", 0)
    assert after["perplexity"] == pytest.approx(trained["perplexity"], rel=1e-5)


@SLOW
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_accumulating_eight_of_one_is_one_of_eight(tmp_path, tiny_model, problem_files, strategy):
    lines = []
    for micro in (1, 8):
        train = {"max_steps": 12, "global_batch_size": 16, "micro_batch_size": micro}
        ranks = Ranks.make(tmp_path / str(micro), tiny_model, problem_files, train=train)
        folder = ranks.train(strategy, "lora")
        assert record(folder)["train"]["accumulation"] == 8 // micro
        lines.append(ranks.lines("lora"))
    assert_same_trajectory(*lines)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero3", "ddp", "zero2"])
def test_half_precision_is_recorded_as_it_is_and_adapters_are_saved_in_float32(
    tmp_path, tiny_model, problem_files, plain, strategy
):
    ranks = Ranks.make(tmp_path, tiny_model, problem_files)
    folder = ranks.train(strategy, "lora", "model.dtype=bfloat16")
    expected = "float32" if strategy == "ddp" else "bfloat16 with float32 masters"
    assert record(folder)["model"]["trainable_dtype"] == expected
    assert record(folder)["model"]["dtype"] == "bfloat16"
    with safe_open(folder / "model" / "adapter_model.safetensors", framework="pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float32"}  # noqa: SIM118
    losses = [line["loss"] for line in ranks.lines("lora")]
    exact = [line["loss"] for line in plain("lora")[0].lines("lora")]
    assert all(math.isclose(one, other, rel_tol=0.02) for one, other in zip(losses, exact, strict=True))


def test_packed_rows_and_a_torchrun_without_accelerate(tmp_path, tiny_model, problem_files):
    losses = {}
    for ranks_count in (1, 2):
        ranks = Ranks.make(
            tmp_path / str(ranks_count), tiny_model, problem_files,
            arms={"lora": METHODS["lora"]}, data={"packing": True},
            train={"max_steps": 8, "global_batch_size": 4, "micro_batch_size": 1},
        )  # fmt: skip
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks_count)]
        train = ["-m", "lora_dist", "train", str(ranks.experiment), "--arm", "lora"]
        done = subprocess.run(
            [*torchrun, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", *train],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        losses[ranks_count] = ranks.lines("lora")
    assert_same_trajectory(losses[2], losses[1])
