"""What an optimizer step computes: its loss, its batch, its packing and its precision, on the real trainer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from training_cases import ALONE, prepare
from training_cases import one_thread as one_thread
from transformers import AutoModelForCausalLM

from lora_dist.errors import Refused
from lora_dist.planning.batches import plan_batches, plan_steps
from lora_dist.training.arguments import sft_config
from lora_dist.training.trainer import make_trainer, training_rows

STILL = {"learning_rate": 1e-30, "warmup_fraction": 0.0}  # Adam's steps are lost in float32: the base's loss, all along
CPU = torch.device("cpu")


@pytest.fixture
def case(tmp_path, tiny_model, problem_files):
    """Prepare a run of the tiny model over the small problems, in a folder of its own."""
    count = iter(range(100))

    def make(**sections):
        return prepare(tmp_path / str(next(count)), tiny_model, problem_files, **sections)

    return make


def float64_nll(model, ids, labels):
    """Summed negative log-likelihood of a row's scored tokens: plain transformers, float64."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor(ids[None], dtype=torch.int64)).logits[0]
    return math.fsum(
        float(torch.logsumexp(logits_TV[t - 1], 0) - logits_TV[t - 1, labels[t]])
        for t in range(1, len(ids))
        if labels[t] != -100
    )


def test_the_losses_of_an_epoch_are_the_token_weighted_float64_cross_entropy(case, tiny_model):
    run = case(train={**STILL, "max_steps": None, "epochs": 1, "global_batch_size": 8, "micro_batch_size": 2})
    run.train()
    rows = list(run.tokens.rows("train"))
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    nll = math.fsum(float64_nll(model, ids, labels) for ids, labels in rows)
    scored = sum(int((labels[1:] != -100).sum()) for _, labels in rows)
    assert len(rows) % 8, "the last step has to be a short one"
    assert sum(line["scored_tokens"] for line in run.lines) == scored
    assert sum(line["tokens"] for line in run.lines) == sum(len(ids) for ids, _ in rows)
    total = math.fsum(line["loss"] * line["scored_tokens"] for line in run.lines)
    assert total == pytest.approx(nll, rel=1e-6)  # float32 model and sums


def test_the_first_loss_is_that_of_its_rows_before_any_update(case, tiny_model):
    run = case(train={"max_steps": 1, "global_batch_size": 64, "learning_rate": 0.01, "warmup_fraction": 0.0})
    run.train()
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    rows = list(run.tokens.rows("train"))
    nll = math.fsum(float64_nll(model, ids, labels) for ids, labels in rows)
    assert run.losses[0] * run.lines[0]["scored_tokens"] == pytest.approx(nll, rel=1e-6)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_accumulating_eight_times_one_is_one_times_eight(case, kind):
    train = {"max_steps": 10, "learning_rate": 2e-3, "checkpoint_steps": 100}
    one, eight = (
        case(method={"kind": kind}, train={**train, "micro_batch_size": micro}) for micro in (1, 8)
    )  # fmt: skip
    one.train()
    eight.train()
    assert one.summary["train"]["accumulation"] == 8
    assert eight.summary["train"]["accumulation"] == 1
    difference = np.array(one.losses) - np.array(eight.losses)
    assert np.abs(difference).max() < 2e-4, difference  # float32 sums in another order, amplified by Adam
    assert abs(difference.mean()) < 5e-5, difference
    assert one.losses[-1] < one.losses[0] - 0.1, "it has to move for the comparison to mean anything"
    for name, weight in one.weights.items():
        assert (weight - eight.weights[name]).abs().max() < 2e-3, name  # one step's update, where a gradient is near 0


def test_packed_rows_lose_what_the_same_rows_lose_unpacked(case):
    train = {**STILL, "max_steps": 1, "global_batch_size": 64, "micro_batch_size": 4}
    apart, packed = (case(data={"packing": packing}, train=train) for packing in (False, True))
    apart.train()
    packed.train()
    assert packed.lines[0]["scored_tokens"] == apart.lines[0]["scored_tokens"]
    assert packed.lines[0]["tokens"] == apart.lines[0]["tokens"]
    assert packed.losses[0] == pytest.approx(apart.losses[0], rel=1e-5)


def packed_trainer(run):
    rows = training_rows(run.tokens, packing=True, max_length=run.tokens.facts.max_length)
    config = sft_config(
        run.run, plan_batches(run.run.train, 1), plan_steps(run.run.train, len(rows)),
        folder=run.folder.checkpoints, device=CPU, max_length=run.tokens.facts.max_length,
    )  # fmt: skip
    assert config.packing_strategy == "bfd", "wrapped lets rows attend across their borders"
    return make_trainer(run.run, config, rows, run.tokenizer, CPU, ALONE), rows


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_neighbour_changes_no_other_row(case, attention):
    trainer, rows = packed_trainer(case(data={"packing": True}, model={"attention": attention}))
    chosen = [row for row in rows if len(row["seq_lengths"]) > 1][:2]
    lengths = [length for row in chosen for length in row["seq_lengths"]]
    batch = trainer.data_collator(chosen)
    assert "attention_mask" not in batch, "an all-ones mask leaks"

    def log_probs(inputs):
        trainer.model.train()
        with torch.no_grad():
            return trainer.model(**inputs, use_cache=False, fused_lm_head=True).log_probs[0]

    before = log_probs(batch)
    ends = np.cumsum(lengths)
    for number, end in enumerate(ends):
        other = {**batch, "input_ids": batch["input_ids"].clone()}
        other["input_ids"][0, end - lengths[number] : end] = 7
        changed = (log_probs(other) - before).abs() > 1e-6
        inside = torch.zeros_like(changed)
        inside[max(0, end - lengths[number] - 1) : end - 1] = True  # log_probs[t] is of token t + 1
        assert changed[inside].any()
        assert not changed[~inside].any()


def test_packing_keeps_every_row_whole(case):
    run = case(data={"packing": True})
    rows = training_rows(run.tokens, packing=True, max_length=run.tokens.facts.max_length)
    packed = []
    for row in rows:
        assert len(row["input_ids"]) <= run.tokens.facts.max_length
        ends = np.cumsum(row["seq_lengths"])
        packed += [tuple(part) for part in np.split(np.array(row["input_ids"]), ends[:-1])]
    assert sorted(packed) == sorted(tuple(ids) for ids, _ in run.tokens.rows("train"))
    assert len(rows) < len(packed) / 1.5, "it has to pack something"


def test_packing_with_a_micro_batch_above_one_trains_as_with_one(case):
    train = {"max_steps": 4, "global_batch_size": 4, "checkpoint_steps": 100}
    one, four = (case(data={"packing": True}, train={**train, "micro_batch_size": micro}) for micro in (1, 4))
    one.train()
    four.train()
    assert four.losses == pytest.approx(one.losses, rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "partial"])
def test_gradient_checkpointing_changes_no_number(case, kind):
    method = {"kind": kind, "top_blocks": 1} if kind == "partial" else {"kind": kind, "dropout": 0.1}
    plain, recomputed = (case(method=method, train={"gradient_checkpointing": on}) for on in (False, True))
    plain.train()
    recomputed.train()
    assert recomputed.losses == pytest.approx(plain.losses, rel=1e-6)
    assert plain.losses[-1] < plain.losses[0]


@pytest.mark.parametrize("kind", ["lora", "qlora", "partial", "full"])
def test_bfloat16_trains_in_mixed_precision_close_to_float32(case, kind):
    exact, half = (case(method={"kind": kind}, model={"dtype": dtype}) for dtype in ("float32", "bfloat16"))
    exact.train()
    half.train()
    assert half.losses == pytest.approx(exact.losses, rel=3e-3)  # 8 bits of mantissa, averaged over the tokens
    assert half.losses != exact.losses
    assert half.summary["model"]["trainable_dtype"] == "float32"
    assert half.summary["model"]["dtype"] == "bfloat16"
    if kind in ("partial", "full"):
        assert {weight.dtype for weight in half.weights.values()} == {torch.bfloat16}
    else:
        assert {weight.dtype for weight in half.weights.values()} == {torch.float32}


def test_float16_training_on_a_cpu_is_refused_with_the_key(case):
    if torch.cuda.is_available():
        pytest.skip("a machine without a GPU is absent here")
    with pytest.raises(Refused, match=r"^model\.dtype: float16 does not train on a CPU"):
        case(model={"dtype": "float16"})
    case(model={"dtype": "float16"}, method={"kind": "base"})


@pytest.mark.parametrize("epochs", [0.5, 1, 1.25])
def test_epochs_may_be_broken(case, epochs):
    run = case(train={"max_steps": None, "epochs": epochs, "global_batch_size": 8})
    run.train()
    per_epoch = math.ceil(len(run.tokens.rows("train")) / 8)
    assert len(run.lines) == math.ceil(epochs * per_epoch)
    assert run.lines[-1]["epoch"] == pytest.approx(epochs, abs=1 / per_epoch)


def test_the_rate_warms_up_and_then_falls(case):
    run = case(train={"max_steps": 10, "warmup_fraction": 0.3, "scheduler": "linear", "learning_rate": 0.007})
    run.train()
    rates = [line["learning_rate"] for line in run.lines]
    expected = [0.007 * share for share in [0, 1 / 3, 2 / 3, 1, *(left / 7 for left in range(6, 0, -1))]]
    assert rates == pytest.approx(expected)


def test_a_seed_is_a_run_and_another_seed_is_another(case):
    runs = [case(train={"max_steps": 3}, method={"dropout": 0.1}, seeds=[seed]) for seed in (3, 3, 4)]
    for run in runs:
        run.train()
    assert runs[0].bytes == runs[1].bytes
    assert runs[0].bytes != runs[2].bytes
    assert runs[0].losses != runs[2].losses, "another order of the rows, too"
