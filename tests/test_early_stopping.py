"""Early stopping: when it ends a run, which model it leaves, and that neither stops nor ranks change that."""

from __future__ import annotations

import json
import math

import pytest
from classification_cases import CLASSIFICATION, save_encoder, sentence_files
from conftest import experiment_document, run_cli
from hypothesis import given
from hypothesis import strategies as st
from ranks_cases import Ranks, lasting, record
from training_cases import Stopped, prepare, stop_at
from training_cases import one_thread as one_thread

from lora_dist.config.experiment import Experiment
from lora_dist.planning.strategies import strategy_problems
from lora_dist.training.checkpoints import sealed
from lora_dist.training.validation import Losses, kept_steps, stale
from lora_dist.verbs.train import only_run

# Few rows, and a rate at which they are learnt by heart after some steps: the validation loss falls, then rises.
TRAIN = {
    "max_steps": 24, "global_batch_size": 4, "micro_batch_size": 4, "learning_rate": 0.004, "scheduler": "constant",
    "warmup_fraction": 0, "checkpoint_steps": 3, "validation_steps": 2, "early_stopping_patience": 2,
}  # fmt: skip
METHODS = {"full": {"kind": "full"}, "lora": {"kind": "lora", "dropout": 0.1}}
OTHERS = {
    "qlora": {"kind": "qlora"}, "dora": {"kind": "lora", "dora": True},
    "partial": {"kind": "partial", "top_blocks": 1},
    "prefix": {"kind": "prefix", "virtual_tokens": 4}, "ia3": {"kind": "ia3"},
}  # fmt: skip
RATES = {"full": 0.004, "partial": 0.004, "prefix": 0.1, "ia3": 0.1}
EVALUATE = {"samples": 0, "bootstrap_samples": 100, "splits": ["validation", "test"]}


@pytest.fixture
def make(tmp_path, tiny_model, problem_files):
    def make(name, kind="full", **train):
        method = (METHODS | OTHERS)[kind]
        return prepare(
            tmp_path / name, tiny_model, problem_files, data={"max_train_examples": 12}, method=method,
            train={**TRAIN, "learning_rate": RATES.get(kind, 0.01), **train}, evaluate=EVALUATE,
        )  # fmt: skip

    return make


def measured(case):
    return {line["step"]: line["validation_loss"] for line in case.lines if "validation_loss" in line}


@pytest.mark.parametrize("kind", METHODS)
def test_a_run_ends_when_its_loss_rises_and_its_model_is_that_of_the_lowest(make, kind):
    case = make("stopping", kind)
    record = case.work()
    part = record.train.validation
    losses = measured(case)
    assert list(losses) == list(range(2, record.train.steps + 1, 2))
    assert 2 < part.best_step == record.train.steps - 4 < part.steps_planned - 4 == 20
    assert part.best_loss == min(losses.values()) < part.last_loss
    assert part.keeps_best
    # Under a constant rate a run that is told to end at that step is the same run, and what it leaves is measured.
    told = make("told", kind, max_steps=part.best_step, early_stopping_patience=None, validation_steps=None)
    reference = told.work()
    assert case.bytes == told.bytes
    scores = record.evaluate["validation"]
    assert scores == reference.evaluate["validation"] | {"seconds": scores["seconds"]}
    assert part.best_loss == pytest.approx(math.log(scores["perplexity"]), rel=1e-6)
    assert not list(case.folder.checkpoints.glob("best-*"))


def test_the_lowest_is_kept_where_training_goes_on_to_its_end(make):
    case = make("patient", early_stopping_patience=100, max_steps=16)
    record = case.work()
    assert record.train.steps == 16
    assert record.train.validation.best_step < 16
    scores = record.evaluate["validation"]
    assert record.train.validation.best_loss == pytest.approx(math.log(scores["perplexity"]), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_of_every_method_it_is_the_model_of_the_best_step(make, kind):
    case = make("kept", kind, early_stopping_patience=100, max_steps=12)
    part = case.work().train.validation
    told = make("told", kind, max_steps=part.best_step, early_stopping_patience=None, validation_steps=None)
    told.train()
    assert case.bytes == told.bytes
    assert len(set(measured(case).values())) > 1


def test_measuring_changes_neither_the_training_nor_the_model(make):
    """The model draws for its dropout."""
    bare = make("bare", "lora", max_steps=6, validation_steps=None, early_stopping_patience=None)
    measuring = make("measuring", "lora", max_steps=6, validation_steps=2, early_stopping_patience=None)
    assert measuring.run.id == bare.run.id
    bare.work()
    record = measuring.work()
    assert measuring.losses == bare.losses
    assert measuring.bytes == bare.bytes
    assert list(measured(measuring)) == [2, 4, 6]
    assert not record.train.validation.keeps_best


@pytest.mark.parametrize(
    "steps", [(5,), *(pytest.param(steps, marks=pytest.mark.slow) for steps in [(1,), (7, 8), (10,), (12,), (13, 14)])]
)
def test_a_run_that_was_stopped_decides_as_one_that_was_not(make, steps):
    calm, stopped = make("calm"), make("stopped")
    record = calm.work()
    last = record.train.steps
    for step in [step for step in steps if step <= last]:
        with pytest.raises(Stopped):
            stopped.train(stop_at(step))
    resumed = stopped.work()
    assert stopped.bytes == calm.bytes
    assert lasting(stopped.lines) == lasting(calm.lines)
    assert resumed.train.validation == record.train.validation


def test_a_run_killed_after_its_last_step_still_finds_its_best(make):
    """The model is there once the training's figures are, not before: the best is copied, and kept till then."""
    calm, stopped = make("calm"), make("stopped")
    record = calm.work()
    with pytest.raises(Stopped):
        stopped.train(stop_at(record.train.steps))
    assert list(stopped.folder.checkpoints.glob(f"best-{record.train.validation.best_step}"))
    assert not stopped.folder.model.exists()
    stopped.work()
    assert stopped.bytes == calm.bytes


def test_a_run_that_begins_anew_keeps_no_model_of_what_it_had_reached(make):
    stopped = make("stopped", checkpoint_steps=4)
    with pytest.raises(Stopped):
        stopped.train(stop_at(7))
    before = kept_steps(stopped.folder.checkpoints)
    for path in sealed(stopped.folder.checkpoints):
        (path / "manifest.json").unlink()
    with pytest.raises(Stopped):
        stopped.train(stop_at(3))
    assert before[-1] > 2
    assert kept_steps(stopped.folder.checkpoints) == [2]


def test_a_classifier_stops_by_its_loss_over_rows(tmp_path):
    files = sentence_files(tmp_path, train=60, test=20)
    case = prepare(
        tmp_path, save_encoder(tmp_path / "encoder"), files, data=CLASSIFICATION, method={"kind": "full"},
        train={**TRAIN, "max_steps": 60, "global_batch_size": 16, "micro_batch_size": 16, "learning_rate": 0.01},
        evaluate=EVALUATE,
    )  # fmt: skip
    record = case.work()
    part = record.train.validation
    assert part.best_step < record.train.steps < 60
    assert part.best_loss == pytest.approx(record.evaluate["validation"]["loss"], rel=1e-6)


def test_with_a_patience_alone_the_loss_is_measured_once_per_epoch(make):
    case = make(
        "epochs", validation_steps=None, max_steps=None, epochs=4, early_stopping_patience=1, learning_rate=1e-4
    )
    case.train()
    plan = json.loads(case.folder.plan.read_text())
    assert list(measured(case)) == [plan["steps_per_epoch"] * epoch for epoch in (1, 2, 3, 4)]


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "kind"), [("zero2", "full"), ("ddp", "lora"), ("zero2", "lora")])
def test_two_ranks_stop_where_one_does(tmp_path, tiny_model, problem_files, strategy, kind):
    """Two real launches, with the libraries to import."""
    rate = {} if kind == "full" else {"learning_rate": 0.01}
    ranks = Ranks.make(
        tmp_path, tiny_model, problem_files, data={"max_train_examples": 12}, evaluate=EVALUATE,
        train={**TRAIN, **rate, "micro_batch_size": 2}, arms={"one": {}, "two": {}}, method={"kind": kind},
    )  # fmt: skip
    one, two = (record(ranks.train(*launch))["train"] for launch in (("plain", "one"), (strategy, "two")))
    assert two["world_size"] == 2
    assert two["steps"] == one["steps"] < 24
    for part in ("best_loss", "last_loss"):
        assert two["validation"][part] == pytest.approx(one["validation"][part], rel=1e-4)
    assert two["validation"]["best_step"] == one["validation"]["best_step"]
    measured = record(ranks.run_folder("two"))["evaluate"]["validation"]
    assert two["validation"]["best_loss"] == pytest.approx(math.log(measured["perplexity"]), rel=1e-5)


@given(st.lists(st.integers(1, 40), unique=True), st.lists(st.integers(1, 40), unique=True))
def test_what_a_run_may_go_back_to_is_never_stale(kept, checkpoints):
    kept = sorted(kept)
    left = set(kept) - set(stale(kept, checkpoints))
    for step in [*checkpoints, 41]:  # where it may go on from, and where it is
        best_then = max((candidate for candidate in kept if candidate <= step), default=None)
        assert best_then is None or best_then in left
    assert len(left) <= len(checkpoints) + 1


@given(st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0]), min_size=1))
def test_the_best_is_the_first_of_the_lowest_and_patience_counts_from_it(losses):
    found = Losses(dict(enumerate(losses, 1)))
    assert losses[found.best_step - 1] == min(losses)
    assert min(losses) not in losses[: found.best_step - 1]
    assert found.since_best == len(losses) - found.best_step


def test_ids_of_runs_without_a_patience_are_what_they_were(tiny_model, problem_files):
    def id_of(**train):
        document = experiment_document(tiny_model, problem_files, train=train)
        return only_run(Experiment.model_validate(document)).id

    assert id_of() == id_of(early_stopping_patience=None) == id_of(validation_steps=4)
    assert len({id_of(), id_of(early_stopping_patience=2), id_of(early_stopping_patience=2, validation_steps=4)}) == 3


def test_it_is_refused_where_no_rank_has_the_whole_model(tmp_path, tiny_model, problem_files):
    (problem,) = strategy_problems("full", "zero3", validates=True)
    assert problem.key == "train.early_stopping_patience"
    assert not list(strategy_problems("full", "zero2", validates=True))
    assert not list(strategy_problems("full", "zero3"))
    document = experiment_document(tiny_model, problem_files, train={"early_stopping_patience": 2})
    (tmp_path / "small.yaml").write_text(json.dumps(document))
    done = run_cli("compare", "small.yaml", "--launcher", "accelerate", "launch.config=cpu_zero3", cwd=tmp_path)
    assert done.code == 2
    assert "train.early_stopping_patience: the validation loss cannot be measured under ZeRO-3" in done.err
    assert "launch.config=zero2 or ddp" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "runs" / "small").exists()
