"""Accuracy, F1 and their intervals, against counting by hand and other routes to the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_dist.errors import StorageError
from lora_dist.evaluation.class_metrics import (
    METRICS,
    Tally,
    accuracy,
    confusion,
    f1_macro,
    f1_weighted,
    metric_difference,
    metric_interval,
)
from lora_dist.evaluation.class_scores import ClassScores, read_class_scores
from lora_dist.evaluation.statistics import wilson

CLASSES = 4
pairs = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40)


def by_hand(rows):
    """Precision and recall of each class, counted row by row."""
    f1, support = {}, {}
    for c in {label for label, _ in rows} | {said for _, said in rows}:
        hits = sum(label == said == c for label, said in rows)
        precision = hits / max(1, sum(said == c for _, said in rows))
        recall = hits / max(1, sum(label == c for label, _ in rows))
        f1[c] = 2 * precision * recall / (precision + recall) if hits else 0.0
        support[c] = sum(label == c for label, _ in rows)
    return (
        sum(label == said for label, said in rows) / len(rows),
        sum(f1.values()) / len(f1),
        sum(f1[c] * support[c] for c in f1) / len(rows),
    )


@given(pairs)
def test_the_metrics_are_those_counted_by_hand(rows):
    counts = confusion(*np.array(rows).T, CLASSES)
    assert counts.sum() == len(rows)
    assert [float(metric(Tally.of(counts))) for metric in (accuracy, f1_macro, f1_weighted)] == pytest.approx(
        by_hand(rows)
    )


@given(pairs)
def test_the_metrics_are_those_of_scikit_learn(rows):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is absent here")
    labels, said = np.array(rows).T
    counts = confusion(labels, said, CLASSES)
    assert (counts == metrics.confusion_matrix(labels, said, labels=range(CLASSES))).all()
    assert accuracy(Tally.of(counts)) == pytest.approx(metrics.accuracy_score(labels, said))
    for name, average in ((f1_macro, "macro"), (f1_weighted, "weighted")):
        assert name(Tally.of(counts)) == pytest.approx(metrics.f1_score(labels, said, average=average, zero_division=0))


@given(pairs, st.permutations(range(CLASSES)))
def test_what_the_classes_are_numbered_does_not_matter(rows, order):
    labels, said = np.array(rows).T
    named = np.array(order)
    for metric in METRICS.values():
        value = metric(Tally.of(confusion(labels, said, CLASSES)))
        assert value == pytest.approx(metric(Tally.of(confusion(named[labels], named[said], CLASSES))))
        assert 0 <= value <= 1


def test_wilson_is_the_score_test_inverted_and_as_printed_in_the_literature():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20, 95%.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    z = 1.959963984540054
    for successes, trials in ((3, 7), (50, 80), (199, 200)):
        for end in wilson(successes, trials):  # where the score test is just about to reject
            assert abs(successes / trials - end) == pytest.approx(z * (end * (1 - end) / trials) ** 0.5)
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_a_bootstrap_over_cells_is_one_over_rows():
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 3, 200)
    said = np.where(draw.random(200) < 0.7, labels, draw.integers(0, 3, 200))
    values = []
    for _ in range(4000):  # the same, row by row
        rows = draw.integers(0, 200, 200)
        values.append(f1_macro(Tally.of(confusion(labels[rows], said[rows], 3))))
    found = metric_interval("f1_macro", confusion(labels, said, 3), resamples=4000)
    assert found == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.006)  # 4,000 draws: 3 sigma
    assert found == metric_interval("f1_macro", confusion(labels, said, 3), resamples=4000)
    assert found != metric_interval("f1_macro", confusion(labels, said, 3), resamples=4000, seed=1)


def test_a_paired_difference_is_narrower_than_that_of_strangers_and_covers_the_formula():
    draw = np.random.default_rng(2)
    labels = draw.integers(0, 3, 400)
    one = np.where(draw.random(400) < 0.7, labels, (labels + 1) % 3)
    other = np.where(draw.random(400) < 0.1, (labels + 2) % 3, one)
    found = metric_difference("accuracy", labels, one[None], other[None], 3, resamples=4000)
    right_a, right_b = one == labels, other == labels
    assert found.value == pytest.approx(right_a.mean() - right_b.mean())
    deviation = (right_a.astype(float) - right_b).std() / 20  # of the mean of 400 paired differences
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * deviation, found.value + 1.96 * deviation), abs=0.005
    )
    same = metric_difference("f1_macro", labels, one[None], one[None], 3, resamples=100)
    assert (same.value, same.low, same.high, same.excludes_zero) == (0.0, 0.0, 0.0, False)


@pytest.mark.parametrize("metric", METRICS)
def test_a_difference_of_means_over_seeds_is_that_of_a_bootstrap_row_by_row(metric):
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 3, 150)
    ours, theirs = (
        np.stack([np.where(draw.random(150) < share, labels, draw.integers(0, 3, 150)) for _ in range(seeds)])
        for share, seeds in ((0.7, 3), (0.5, 2))
    )

    def difference(rows):
        of = METRICS[metric]
        means = [
            np.mean([of(Tally.of(confusion(labels[rows], said[rows], 3))) for said in side]) for side in (ours, theirs)
        ]
        return means[0] - means[1]

    found = metric_difference(metric, labels, ours, theirs, 3, resamples=4000)
    assert found.value == pytest.approx(difference(np.arange(150)))
    values = [difference(draw.integers(0, 150, 150)) for _ in range(2000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.01)
    assert found.rows == 150


def test_what_are_no_predictions_of_these_rows_is_refused():
    for labels, said in (([0, 1], [0]), ([], []), ([0], [5]), ([-1], [0])):
        with pytest.raises(ValueError):
            confusion(np.array(labels, int), np.array(said, int), 3)
    with pytest.raises(ValueError, match="predictions of"):
        metric_difference("accuracy", np.zeros(3), np.zeros((1, 2)), np.zeros((1, 3)), 3, resamples=100)


def test_scores_come_back_bit_for_bit_and_others_are_refused(tmp_path):
    from lora_dist.evaluation.scores import write_scores

    scores = ClassScores(np.array([0.1, 2.5]), np.array([1, 0], np.int32), np.array([1, 1], np.int32))
    scores.write(tmp_path / "scores" / "test.parquet")
    found = read_class_scores(tmp_path / "scores" / "test.parquet")
    for mine, theirs in zip(vars(scores).values(), vars(found).values(), strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine == theirs).all()
    write_scores(tmp_path / "other.parquet", np.array([1.0]), np.array([1]))
    with pytest.raises(StorageError, match="not \\['nll', 'label', 'predicted'\\]"):
        read_class_scores(tmp_path / "other.parquet")
    with pytest.raises(StorageError, match="cannot be read"):
        read_class_scores(tmp_path / "none.parquet")
