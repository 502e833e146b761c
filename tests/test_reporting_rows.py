"""Records become rows: which runs count, what each is compared with, and what is said about the rest."""

from __future__ import annotations

import numpy as np
import pytest
from test_reporting_synthetic import ARMS, ENVIRONMENT, RESAMPLES, Synthetic, whole

from lora_dist.evaluation.scores import read_scores, write_scores
from lora_dist.reporting.collect import collect
from lora_dist.reporting.headline import headlines
from lora_dist.reporting.rows import NO_DIFFERENCE, Comparison, Row
from lora_dist.store.atomic import write_text
from lora_dist.store.folders import dump_yaml


def named(comparison: Comparison, name: str) -> Row:
    return next(row for row in comparison.rows if row.name == name)


def bootstrap_by_hand(row: Row, reference: Row) -> tuple[float, float, float]:
    """The paired bootstrap in its plainest form: one resample at a time, with a generator of its own."""
    (nll, tokens), (other, _) = (read_scores(each.at.folder.scores / "test.parquet") for each in (row, reference))
    random = np.random.default_rng(12345)
    drawn = []
    for _ in range(4000):
        rows = random.integers(0, len(nll), len(nll))
        total = tokens[rows].sum()
        drawn.append(np.exp(nll[rows].sum() / total) - np.exp(other[rows].sum() / total))
    value = np.exp(nll.sum() / tokens.sum()) - np.exp(other.sum() / tokens.sum())
    return float(value), *(float(bound) for bound in np.quantile(drawn, [0.025, 0.975]))


def test_differences_equal_a_paired_bootstrap_made_by_hand(tmp_path):
    comparison = collect([whole(tmp_path / "e").folder])
    for name in ("lora r4", "lora r16", "qlora"):
        row = named(comparison, name)
        for versus, reference in ((row.versus_base, "base"), (row.versus_full, "full")):
            value, low, high = bootstrap_by_hand(row, named(comparison, reference))
            assert versus is not None
            assert versus.reference == reference
            assert versus.value == pytest.approx(value, rel=1e-12)
            # Bounds from 200 resamples: their own noise is a good part of the interval's half-width.
            assert versus.low == pytest.approx(low, abs=0.25 * (high - low))
            assert versus.high == pytest.approx(high, abs=0.25 * (high - low))


def test_a_reference_is_not_compared_with_itself(tmp_path):
    comparison = collect([whole(tmp_path / "e").folder])
    assert named(comparison, "base").versus_base is None
    assert named(comparison, "full").versus_full is None
    assert named(comparison, "full").versus_base is not None


def test_an_interval_over_zero_is_called_no_difference_shown(tmp_path):
    made = Synthetic(tmp_path / "e", {"lora": {}, "full": {"method": {"kind": "full"}}})
    for run in made.runs:
        made.finish(run, 2.5, spread=0.3)
    comparison = collect([made.folder])
    versus = named(comparison, "lora").versus_full
    assert versus is not None
    assert versus.low < 0 < versus.high
    assert versus.verdict == NO_DIFFERENCE
    assert "No difference to full fine-tuning shown" in headlines(comparison)[0].title


def test_each_seed_is_compared_with_the_full_run_of_its_seed(tmp_path):
    comparison = collect([whole(tmp_path / "e", seeds=[3, 7]).folder])
    assert named(comparison, "lora r4 seed 3").versus_full.reference == "full seed 3"
    assert named(comparison, "lora r4 seed 7").versus_full.reference == "full seed 7"
    assert any(note.startswith("lora r4: mean test perplexity") for note in comparison.notes)


def test_without_a_full_run_of_its_seed_the_first_seed_serves(tmp_path):
    made = Synthetic(tmp_path / "e", seeds=[0, 1])
    for run in made.runs:
        if not (run.arm == "full" and run.seed == 1):
            made.finish(run, 2.5)
    assert named(collect([made.folder]), "lora r4 seed 1").versus_full.reference == "full seed 0"


def test_full_fine_tuning_is_represented_by_its_best_setting_chosen_on_validation(tmp_path):
    arms = {"lora": {}, "full": {"method": {"kind": "full"}, "grid": {"train.learning_rate": [1e-5, 1e-4, 1e-3]}}}
    made = Synthetic(tmp_path / "e", arms)
    made.finish(made.of("lora"), 2.5, validation=2.5)
    for index, (test, validation) in enumerate([(2.8, 2.8), (2.5, 2.4), (2.4, 2.5)]):
        made.finish(made.of("full", index), test, validation=validation)
    comparison = collect([made.folder])
    assert named(comparison, "lora").versus_full.reference == "full lr 1e-4"
    assert named(comparison, "full lr 1e-3").versus_full.reference == "full lr 1e-4"


def test_a_missing_full_arm_is_said_and_leaves_the_question_open(tmp_path):
    made = Synthetic(tmp_path / "e", {"base": {"method": {"kind": "base"}}, "lora": {}})
    for run in made.runs:
        made.finish(run, 2.5 if run.trains else 3.0)
    comparison = collect([made.folder])
    assert named(comparison, "lora").versus_full is None
    assert named(comparison, "lora").versus_base.verdict == "better"
    assert any("No finished full fine-tuning run" in note for note in comparison.notes)
    assert "Open" in headlines(comparison)[0].title


def test_rows_with_other_tokens_are_never_compared(tmp_path):
    made = Synthetic(tmp_path / "e")
    for run in made.runs:
        made.finish(run, 2.5, token_hash=("b" if run.arm in ("full", "qlora") else "a") * 64)
    comparison = collect([made.folder])
    assert [len(group.rows) for group in comparison.groups] == [3, 2]
    assert named(comparison, "lora r4").versus_full is None
    assert named(comparison, "qlora").versus_base is None
    assert named(comparison, "qlora").versus_full.reference == "full"
    assert any("bits per byte" in note for note in comparison.notes)
    assert len(headlines(comparison)) == 2


def test_two_experiments_on_the_same_tokens_share_what_only_one_of_them_has(tmp_path):
    first = Synthetic(tmp_path / "first", {"base": {"method": {"kind": "base"}}, "full": {"method": {"kind": "full"}}})
    second = Synthetic(tmp_path / "second", {"lora": {}})
    for made in (first, second):
        for run in made.runs:
            made.finish(run, 2.5)
    comparison = collect([first.folder, second.folder])
    assert [row.name for row in comparison.rows] == ["first/base", "first/full", "second/lora"]
    assert named(comparison, "second/lora").versus_full.reference == "first/full"


def test_with_two_experiments_each_row_is_compared_within_its_own(tmp_path):
    comparison = collect([whole(tmp_path / "one").folder, whole(tmp_path / "two").folder])
    assert named(comparison, "two/lora r4").versus_full.reference == "two/full"
    assert named(comparison, "two/lora r4").versus_base.reference == "two/base"


def test_unfinished_runs_are_listed_with_state_reason_and_log(tmp_path):
    made = Synthetic(tmp_path / "e")
    made.finish(made.of("base"), 3.0)
    made.end(made.of("lora"), "failed", "the loss became NaN at step 12")
    made.end(made.of("lora", 1), "refused", "the test split is empty")
    made.begin(made.of("qlora"))
    comparison = collect([made.folder])
    states = {row.name: (row.at.state, row.at.reason) for row in comparison.unfinished}
    assert states["lora r4"] == ("failed", "the loss became NaN at step 12")
    assert states["lora r16"] == ("refused", "the test split is empty")
    assert states["qlora"][0] == "stale"
    assert states["full"] == ("waiting", "")
    assert named(comparison, "lora r4").at.log == made.folder.run(made.of("lora").id).log
    assert len(comparison.rows) == len(made.runs)


def test_a_corrupt_record_fails_its_row_and_no_other(tmp_path):
    made = whole(tmp_path / "e")
    write_text(made.folder.run(made.of("qlora").id).record, '{"schema_version": 1')
    comparison = collect([made.folder])
    assert [row.name for row in comparison.unfinished] == ["qlora"]
    assert "is not a record" in comparison.unfinished[0].at.reason


def test_scores_that_cannot_be_paired_cost_the_difference_and_are_told(tmp_path):
    made = whole(tmp_path / "e")
    missing, other = (made.folder.run(made.of("lora", index).id).scores / "test.parquet" for index in (0, 1))
    missing.unlink()
    write_scores(other, np.ones(5), np.ones(5, int))
    comparison = collect([made.folder])
    for name in ("lora r4", "lora r16"):
        assert named(comparison, name).versus_full is None
        assert any(note.startswith(f"No difference between {name} and full") for note in comparison.notes)
    assert named(comparison, "qlora").versus_full is not None


def test_finished_runs_that_the_experiment_no_longer_names_are_told(tmp_path):
    made = whole(tmp_path / "e")
    arms = {name: arm for name, arm in ARMS.items() if name != "qlora"}
    document = made.experiment.model_dump(mode="json") | {"arms": arms}
    write_text(made.folder.experiment, dump_yaml(document))
    comparison = collect([made.folder])
    assert "qlora" not in [row.name for row in comparison.rows]
    assert any(made.of("qlora").id in note for note in comparison.notes)


def test_what_confounds_a_comparison_is_said(tmp_path):
    made = Synthetic(tmp_path / "e")
    other = ENVIRONMENT | {"host": "node-2", "packages": ENVIRONMENT["packages"] | {"torch": "2.12.0"}}
    for run in made.runs:
        made.finish(run, 2.5, environment=other if run.arm == "full" else ENVIRONMENT)
    notes = "\n".join(collect([made.folder]).notes)
    assert "differ in torch" in notes
    assert "different machines" in notes


def test_training_that_does_not_beat_the_base_is_warned_about(tmp_path):
    made = Synthetic(tmp_path / "e")
    for run in made.runs:
        made.finish(run, 3.5 if run.arm == "lora" else 3.0)
    text = " ".join(headlines(collect([made.folder]))[0].sentences)
    assert "is worse than the base model" in text


def test_the_share_of_the_gain_is_measured_in_nats(tmp_path):
    made = Synthetic(tmp_path / "e", {name: ARMS[name] for name in ("base", "full")} | {"lora": {}})
    for arm, nats in (("base", 3.0), ("lora", 2.4), ("full", 2.0)):
        made.finish(made.of(arm), nats, spread=1e-6)
    assert "it reaches 60% of full fine-tuning's gain" in " ".join(headlines(collect([made.folder]))[0].sentences)


def test_a_gain_that_is_not_shown_is_no_share_of_one(tmp_path):
    made = Synthetic(tmp_path / "e", {name: ARMS[name] for name in ("base", "full")} | {"lora": {}})
    for arm, nats in (("base", 3.0), ("lora", 3.2), ("full", 2.0)):
        made.finish(made.of(arm), nats, spread=1e-6)
    assert "gain" not in " ".join(headlines(collect([made.folder]))[0].sentences)


def test_resamples_are_those_of_the_experiment(tmp_path):
    made = whole(tmp_path / "e")
    assert made.experiment.evaluate.bootstrap_samples == RESAMPLES
    few = named(collect([made.folder]), "lora r4").versus_full
    document = made.experiment.model_dump(mode="json")
    document["evaluate"]["bootstrap_samples"] = 3000
    write_text(made.folder.experiment, dump_yaml(document))
    many = named(collect([made.folder]), "lora r4").versus_full
    assert few.value == many.value
    assert few.low != many.low


def test_a_folder_given_twice_counts_once_and_namesakes_are_told_apart(tmp_path):
    one, two = (whole(tmp_path / parent / "same", arms={"lora": {}}).folder for parent in ("a", "b"))
    rows = collect([one, two, one]).rows
    assert [row.name for row in rows] == [f"{one.path}/lora", f"{two.path}/lora"]
