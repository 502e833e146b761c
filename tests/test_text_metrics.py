"""What answers are judged by, held to the libraries on 200 answers that are wrong in many ways, and to properties."""

from __future__ import annotations

import json
import random
from decimal import Decimal

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU
from scipy.stats import binomtest

from lora_dist.evaluation.answers import final_number, is_same_number, normalised, steps_of
from lora_dist.evaluation.metric_statistics import difference_of, interval_of, value_of
from lora_dist.evaluation.statistics import wilson
from lora_dist.evaluation.text_metrics import ROUGE_KEYS, Bleu, RowMean, text_metrics, token_f1

METRICS = {metric.key: metric for metric in text_metrics(["exact_match", "f1", "rouge", "bleu"], "math")}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = 7 apples.\n#### 7", "7"), ("#### 1,234", "1234"), ("#### $1,234.50", "1234.50"),
        ("The answer is 42.", "42"), ("it costs 5%", "5"), ("12 km", "12"), ("#### -3", "-3"), ("\u22123.5", "-3.5"),
        ("3-5", "5"), ("x-2", "2"), ("about .5 of it", "0.5"), ("1,2", "2"), ("1,234,567 people", "1234567"),
        ("#### 7 and then 8", "7"), ("#### none, but 9 before", "9"), ("first 6 ####", "6"), ("#### 1 #### 2", "2"),
        ("9" * 500, None), ("no number", None), ("", None), ("1/2", "2"), ("2.", "2"), ("v1.2.3", ".3"),
    ],
)  # fmt: skip
def test_the_last_number_of_an_answer(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_numbers_are_the_same_as_decimals_and_words_where_there_are_none():
    assert is_same_number("so 3.50", "#### 3.5")
    assert not is_same_number("3.51", "#### 3.5")
    assert not is_same_number("", "#### 0")
    assert is_same_number("The Blue one!", "blue one")
    assert not is_same_number("12345678901234567891", "#### 12345678901234567890"), "as floats they are the same"


FORMS = ["{}", "{:,}", "${:,}", "It is {:,}.", "{:,}.00 units", "#### {}"]


@given(st.integers(-(10**12), 10**12), st.sampled_from(FORMS))
def test_a_number_is_read_however_it_is_written(number, form):
    assert final_number(form.format(number)) == number


def test_steps_are_the_lines_before_the_mark():
    assert steps_of("a = 1\n\nb = 2\n#### 2") == 2
    assert steps_of("#### 2") == 0


def perturbed(reference, chance):
    """The reference with words left out, doubled, changed or turned round; sometimes nothing, or the reference."""
    words = reference.split()
    kind = chance.randrange(6)
    if kind == 0:
        return ""
    if kind == 1:
        return reference
    if kind == 2:
        return " ".join(word for word in words if chance.random() < 0.7)
    if kind == 3:
        return " ".join(chance.sample(words, len(words)))
    if kind == 4:
        return " ".join(word.upper() if chance.random() < 0.5 else f"{word}, the {word}" for word in words)
    return " ".join("42" if word[:1].isdigit() else word for word in words) + " \u00e9t\u00e9 7"


def references_of(name):
    if name == "made":
        chance = random.Random(1)
        words = ["a", "cat", "sat", "on", "the", "mat", "12", "3,400", "and", "slept.", "It's", "fine!", "caf\u00e9"]
        return [" ".join(chance.choices(words, k=chance.randint(1, 30))) for _ in range(200)]
    key = {"gsm8k_unseen.jsonl": "answer", "dialogsum_dev.jsonl": "summary"}[name]
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)[key] for line, _ in zip(lines, range(200), strict=False)]


@pytest.mark.parametrize("name", ["made", "gsm8k_unseen.jsonl", "dialogsum_dev.jsonl"])
def test_rouge_and_bleu_are_those_of_their_libraries(name):
    references = references_of(name)
    chance = random.Random(2)
    predictions = [perturbed(reference, chance) for reference in references]
    scorer = RougeScorer(ROUGE_KEYS)
    pairs = list(zip(predictions, references, strict=True))
    theirs = [scorer.score(reference, prediction) for prediction, reference in pairs]
    for key in ROUGE_KEYS:
        ours = METRICS[key].statistics(predictions, references)
        assert METRICS[key].by_row(ours) == [one[key].fmeasure for one in theirs]
        assert value_of(METRICS[key], ours) == pytest.approx(np.mean([one[key].fmeasure for one in theirs]), abs=1e-12)
    ours = METRICS["bleu"].statistics(predictions, references)
    assert value_of(METRICS["bleu"], ours) == BLEU().corpus_score(predictions, [references]).score
    part = ours[::3]
    assert value_of(METRICS["bleu"], part) == BLEU().corpus_score(predictions[::3], [references[::3]]).score


def test_exact_match_and_f1_on_pairs_that_can_be_counted_by_hand():
    pairs = [("the cat", "a cat", 1.0, 1.0), ("big cat", "cat", 0.0, 2 / 3), ("dog", "cat", 0.0, 0.0),
             ("", "cat", 0.0, 0.0),
             ("the", "a", 1.0, 1.0), ("cat cat", "cat", 0.0, 2 / 3), ("Cat!", "cat", 1.0, 1.0)]  # fmt: skip
    exact, f1 = text_metrics(["exact_match", "f1"], "qa")
    said, expected = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert exact.by_row(exact.statistics(said, expected)) == [pair[2] for pair in pairs]
    assert f1.by_row(f1.statistics(said, expected)) == pytest.approx([pair[3] for pair in pairs])


words = st.text(alphabet="ab the,.!", max_size=12)


@given(words, words)
def test_token_f1_is_symmetric_and_one_exactly_for_equal_bags(one, other):
    assert token_f1(one, other) == token_f1(other, one)
    equal = sorted(normalised(one).split()) == sorted(normalised(other).split())
    assert (token_f1(one, other) == 1) == equal


@pytest.mark.parametrize(("right", "answers"), [(0, 10), (10, 10), (1, 3), (413, 1319), (5, 5000)])
def test_wilsons_interval_is_scipys(right, answers):
    theirs = binomtest(right, answers).proportion_ci(0.95, method="wilson")
    assert wilson(right, answers) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def statistics(key, values):
    return np.array(values, np.float64)[:, None]


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """200 samples of 150 scores from one distribution; of 95% intervals 180 to 199 hold its mean (4 sigma)."""
    random_ = np.random.default_rng(0)
    metric = RowMean("f1", token_f1)
    covered = 0
    for seed in range(200):
        low, high = interval_of(metric, random_.beta(2, 3, size=(150, 1)), resamples=300, seed=seed)
        covered += low <= 0.4 <= high
    assert 178 <= covered <= 199


def test_a_paired_difference_is_tighter_than_its_two_arms_and_zero_for_the_same_answers():
    random_ = np.random.default_rng(0)
    base = random_.uniform(size=(200, 1))
    better = np.minimum(1.0, base + 0.05)
    metric = METRICS["f1"]
    found = difference_of(metric, better, base, resamples=500)
    assert found.excludes_zero
    assert found.value == pytest.approx(float(better.mean() - base.mean()))
    own = [np.subtract(*reversed(interval_of(metric, part, resamples=500))) for part in (base, better)]
    assert found.high - found.low < min(own) / 4
    same = difference_of(metric, base, base, resamples=500)
    assert (same.value, same.low, same.high, same.excludes_zero) == (0, 0, 0, False)
    with pytest.raises(ValueError, match="are not the same ones"):
        difference_of(metric, base, base[:50], resamples=500)


SAID = ["a cat sat", "the dog ran off", "a cat ran", "mat"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(SAID), min_size=2, max_size=6), st.data())
def test_bleu_of_a_resample_is_that_of_the_answers_it_drew(said, data):
    as_many = {"min_size": len(said), "max_size": len(said)}
    expected = data.draw(st.lists(st.sampled_from(["a cat sat down", "the dog ran"]), **as_many))
    drawn = data.draw(st.lists(st.integers(0, len(said) - 1), **as_many))
    bleu = Bleu()
    counts = np.bincount(drawn, minlength=len(said)).astype(np.float64)[None]
    ours = bleu.values(counts @ bleu.statistics(said, expected), len(said))
    theirs = BLEU().corpus_score([said[i] for i in drawn], [[expected[i] for i in drawn]]).score
    assert ours[0] == pytest.approx(theirs, abs=1e-9)
