"""The Pareto front of the plots: a property, and a case."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lora_dist.reporting.frontier import front

points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


def beats(one, other):
    return one != other and one[0] <= other[0] and one[1] <= other[1]


@given(points)
def test_the_front_is_what_nothing_beats(given_points):
    found = front(given_points)
    assert set(found) == {point for point in given_points if not any(beats(other, point) for other in given_points)}
    assert found == sorted(found)


def test_a_cheap_and_a_good_one_stay_and_what_is_between_and_worse_goes():
    assert front([(1, 5), (3, 5.5), (2, 4), (9, 1), (9, 2)]) == [(1, 5), (2, 4), (9, 1)]
