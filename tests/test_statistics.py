import math
import tracemalloc

import numpy as np
import pytest

from lora_dist.evaluation.statistics import FEWEST_ROWS, perplexity_difference, perplexity_interval


def simulated(random, rows, shift=0.0):
    tokens_R = random.integers(5, 60, size=rows)
    nll_R = tokens_R * random.gamma(20, (2.0 + shift) / 20, size=rows)
    return nll_R, tokens_R


def naive_resamples(nll_R, tokens_R, resamples, seed):
    """One resample after the other, with plain Python sums."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = random.integers(0, len(nll_R), size=len(nll_R)).tolist()
        yield math.exp(math.fsum(nll_R[r] for r in drawn) / sum(int(tokens_R[r]) for r in drawn))


def test_the_interval_is_that_of_a_naive_loop():
    nll_R, tokens_R = simulated(np.random.default_rng(1), 40)
    expected = np.percentile(list(naive_resamples(nll_R, tokens_R, 500, seed=3)), [2.5, 97.5])
    # The same draws in the same order: equal up to the rounding of the sums.
    assert perplexity_interval(nll_R, tokens_R, resamples=500, seed=3) == pytest.approx(tuple(expected), rel=1e-12)


def test_the_difference_is_that_of_a_naive_loop_on_the_same_rows():
    random = np.random.default_rng(2)
    nll_a_R, tokens_R = simulated(random, 30)
    nll_b_R = nll_a_R * random.uniform(0.8, 1.1, size=30)
    pairs = zip(
        naive_resamples(nll_a_R, tokens_R, 400, seed=5), naive_resamples(nll_b_R, tokens_R, 400, seed=5), strict=True
    )
    low, high = np.percentile([a - b for a, b in pairs], [2.5, 97.5])
    found = perplexity_difference(nll_a_R, tokens_R, nll_b_R, tokens_R, resamples=400, seed=5)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    by_hand = math.exp(nll_a_R.sum() / tokens_R.sum()) - math.exp(nll_b_R.sum() / tokens_R.sum())
    assert found.value == pytest.approx(by_hand, rel=1e-12)


def test_the_interval_does_not_depend_on_how_resamples_are_chunked(monkeypatch):
    nll_R, tokens_R = simulated(np.random.default_rng(3), 50)
    whole = perplexity_interval(nll_R, tokens_R, resamples=200)
    monkeypatch.setattr("lora_dist.evaluation.statistics._CHUNK_DRAWS", 7 * 50)
    assert perplexity_interval(nll_R, tokens_R, resamples=200) == pytest.approx(whole, rel=1e-13)


def test_coverage_is_about_nominal():
    truth = math.exp(2.0)  # row nll has mean 2 per token, whatever the row's length
    random = np.random.default_rng(4)
    inside = 0
    for trial in range(400):
        low, high = perplexity_interval(*simulated(random, 80), resamples=300, seed=trial)
        inside += low <= truth <= high
    # 95% nominal; percentile intervals over 80 rows cover a little less; 400 trials have a standard error of 1.1%.
    assert 0.90 <= inside / 400 <= 0.985


def test_a_paired_difference_covers_and_is_much_narrower_than_unpaired():
    random = np.random.default_rng(5)
    nll_a_R, tokens_R = simulated(random, 100)
    nll_b_R = nll_a_R - tokens_R * random.normal(0.02, 0.02, size=100)
    paired = perplexity_difference(nll_a_R, tokens_R, nll_b_R, tokens_R, resamples=500)
    low_a, high_a = perplexity_interval(nll_a_R, tokens_R, resamples=500)
    assert paired.excludes_zero
    assert paired.low > 0
    assert paired.high - paired.low < (high_a - low_a) / 5


def test_no_real_difference_is_found_about_one_time_in_twenty():
    random = np.random.default_rng(6)
    found = 0
    for trial in range(400):
        nll_a_R, tokens_R = simulated(random, 80)
        nll_b_R = tokens_R * random.gamma(20, 2.0 / 20, size=80)
        found += perplexity_difference(nll_a_R, tokens_R, nll_b_R, tokens_R, resamples=300, seed=trial).excludes_zero
    assert 0.015 <= found / 400 <= 0.10


def test_identical_arms_differ_by_exactly_nothing():
    nll_R, tokens_R = simulated(np.random.default_rng(7), 33)
    found = perplexity_difference(nll_R, tokens_R, nll_R.copy(), tokens_R.copy(), resamples=300)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert not found.excludes_zero


def test_the_difference_changes_sign_with_the_order_of_the_arms():
    random = np.random.default_rng(8)
    nll_a_R, tokens_R = simulated(random, 20)
    nll_b_R = nll_a_R * random.uniform(0.9, 1.2, size=20)
    ab = perplexity_difference(nll_a_R, tokens_R, nll_b_R, tokens_R, resamples=300)
    ba = perplexity_difference(nll_b_R, tokens_R, nll_a_R, tokens_R, resamples=300)
    assert ab.value == -ba.value
    assert (ab.low, ab.high) == pytest.approx((-ba.high, -ba.low))


def test_a_seed_gives_its_own_interval_every_time():
    nll_R, tokens_R = simulated(np.random.default_rng(9), 25)
    one = perplexity_interval(nll_R, tokens_R, resamples=200, seed=1)
    assert one == perplexity_interval(nll_R, tokens_R, resamples=200, seed=1)
    assert one != perplexity_interval(nll_R, tokens_R, resamples=200, seed=2)


def test_a_wider_level_gives_a_wider_interval():
    nll_R, tokens_R = simulated(np.random.default_rng(10), 25)
    low_90, high_90 = perplexity_interval(nll_R, tokens_R, resamples=500, level=0.90)
    low_99, high_99 = perplexity_interval(nll_R, tokens_R, resamples=500, level=0.99)
    assert low_99 < low_90 < high_90 < high_99


def test_one_row_is_a_point_and_too_few_rows_show_nothing():
    assert perplexity_interval([4.0], [2], resamples=100) == pytest.approx((math.exp(2), math.exp(2)))
    tokens_R = np.full(FEWEST_ROWS, 10)
    nll_R = np.linspace(20, 21, FEWEST_ROWS)
    few = perplexity_difference(nll_R[1:] + 5, tokens_R[1:], nll_R[1:], tokens_R[1:], resamples=200)
    enough = perplexity_difference(nll_R + 5, tokens_R, nll_R, tokens_R, resamples=200)
    assert few.low > 0
    assert not few.excludes_zero
    assert enough.excludes_zero


@pytest.mark.parametrize(
    ("arm_b", "message"),
    [
        (([1.0, 2.0], [3, 3]), "not scored on the same data"),
        (([1.0, 2.0, 3.0], [3, 3, 4]), "not scored on the same data"),
        (([1.0, np.nan, 3.0], [3, 3, 3]), "finite"),
        (([1.0, 2.0, 3.0], [3, 3, 0]), "at least one scored token"),
        (([], []), "not empty"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused(arm_b, message):
    with pytest.raises(ValueError, match=message):
        perplexity_difference([1.0, 2.0, 3.0], [3, 3, 3], *arm_b, resamples=100)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="resamples"):
        perplexity_interval([1.0], [1], resamples=0)
    with pytest.raises(ValueError, match="level"):
        perplexity_interval([1.0], [1], resamples=10, level=95)


def test_memory_is_bounded_for_many_rows():
    nll_R, tokens_R = simulated(np.random.default_rng(11), 100_000)
    tracemalloc.start()
    perplexity_difference(nll_R, tokens_R, nll_R * 1.01, tokens_R, resamples=100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 128 * 2**20  # all 100 resamples at once would be 80 MiB a copy, and grow with their number
