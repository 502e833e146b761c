"""Numbers as people read them, and names that tell rows apart."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_reporting_synthetic import Synthetic

from lora_dist.reporting import words
from lora_dist.reporting.names import short_names


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, "0"), (999, "999"), (12_412, "12.4k"), (99_960, "100k"), (999_600, "1.00M"), (1_300_000, "1.30M"),
        (7_240_000_000, "7.24B"), (50.0, "50"), (0.57, "0.57"), (None, "-"),
    ],
)  # fmt: skip
def test_counts(number, told):
    assert words.count(number) == told


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 B"), (812 << 20, "812 MiB"), (1500 << 20, "1.46 GiB"), (80 << 30, "80.0 GiB")]
)
def test_sizes(number, told):
    assert words.size(number) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.853, "0.85 s"), (13.24, "13.2 s"), (59.96, "1m 00s"), (245, "4m 05s"), (3599.7, "1h 00m"), (7980, "2h 13m")],
)
def test_durations(seconds, told):
    assert words.duration(seconds) == told


@pytest.mark.parametrize(
    ("share", "told"), [(0, "0%"), (1, "100%"), (0.0512, "5.1%"), (0.00031, "0.031%"), (0.0096, "1.0%")]
)
def test_percentages(share, told):
    assert words.percent(share) == told


@pytest.mark.parametrize(
    ("value", "told"), [(2e-4, "2e-4"), (0.001, "1e-3"), (0.05, "0.05"), (16, "16"), (["q_proj", "v"], "q_proj+v")]
)
def test_settings(value, told):
    assert words.setting(value) == told


def test_an_interval_decides_how_many_decimals_a_value_has():
    assert words.with_interval(0.1234, 0.0512, 0.2034, signed=True) == ("+0.12", "[0.05, 0.20]")
    assert words.with_interval(-3.2101, -3.51, -2.93, signed=True) == ("-3.21", "[-3.51, -2.93]")
    assert words.with_interval(878_532.4, 800_000, 950_000) == ("878,532", "[800,000, 950,000]")
    assert words.with_interval(-0.00001, -0.01, 0.02, signed=True) == ("+0.000", "[-0.010, 0.020]")
    assert words.with_interval(4.5, None, None) == ("4.500", "")


finite_or_not = st.floats(allow_nan=True, allow_infinity=True)


@given(finite_or_not, finite_or_not, finite_or_not)
def test_any_numbers_can_be_told(value, low, high):
    assert all(isinstance(text, str) for text in words.with_interval(value, low, high, signed=True))


@given(st.floats(min_value=1e-6, max_value=1e15))
def test_a_count_is_within_half_a_percent_of_its_number(number):
    text = words.count(number)
    scale = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1)
    assert math.isclose(float(text.rstrip("kMBT")) * scale, number, rel_tol=0.0051, abs_tol=0.0051)


@given(st.text(), st.integers(min_value=4, max_value=50))
def test_one_line_is_one_printable_line_of_at_most_its_limit(text, limit):
    line = words.one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit


def test_names_say_only_what_differs(tmp_path):
    arms = {
        "base": {"method": {"kind": "base"}},
        "lora": {"points": [{"method.rank": 4, "method.alpha": 8}, {"method.rank": 16, "method.alpha": 32}]},
        "swept": {"grid": {"train.learning_rate": [1e-4, 3e-4], "train.weight_decay": [0.0, 0.1]}},
        "full": {"method": {"kind": "full"}},
    }
    runs = Synthetic(tmp_path / "e", arms).runs
    assert short_names([("e", run) for run in runs]) == [
        "base", "lora r4", "lora r16", "swept lr 1e-4 weight_decay=0", "swept lr 1e-4 weight_decay=0.1",
        "swept lr 3e-4 weight_decay=0", "swept lr 3e-4 weight_decay=0.1", "full",
    ]  # fmt: skip
    seeded = Synthetic(tmp_path / "s", arms, seeds=[0, 1]).runs
    names = short_names([("e", run) for run in seeded])
    assert names[:3] == ["base", "lora r4 seed 0", "lora r4 seed 1"]
    assert len(set(names)) == len(seeded)
