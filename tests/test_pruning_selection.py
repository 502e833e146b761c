"""Exactly so many of the smallest, ties by position, on one rank or several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_cases import on_ranks

from lora_dist.pruning.selection import count_of, smallest, smallest_of_groups, smallest_of_rows

# Few different values: most scores are tied.
VALUES = st.sampled_from([0.0, 1e-38, 0.25, 0.5, 0.5000001, 1.0, 3.5, 1e30, float("inf")])


def expected(scores_RB, count):
    order = np.argsort(scores_RB.numpy(), axis=None, kind="stable")
    mask = np.zeros(scores_RB.numel(), dtype=bool)
    mask[order[:count]] = True
    return torch.from_numpy(mask.reshape(scores_RB.shape))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9).flatmap(lambda rows: st.integers(1, 7).flatmap(
        lambda columns: st.lists(st.lists(VALUES, min_size=columns, max_size=columns), min_size=rows, max_size=rows))),
    st.floats(0, 0.999),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(1, 4),
)  # fmt: skip
def test_the_smallest_are_those_of_a_stable_sort(values, sparsity, dtype, chunk):
    scores_RB = torch.tensor(values, dtype=dtype)
    count = count_of(sparsity, scores_RB.numel())
    chunks = list(scores_RB.split(chunk))
    found = torch.cat(smallest(chunks, sparsity, scores_RB.numel()))
    assert int(found.sum()) == count
    assert torch.equal(found, expected(scores_RB, count))


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("tied", [False, True])
def test_ranks_that_share_rows_choose_what_one_does(size, tied):
    scores_RB = torch.rand(4 * 30 + 7, 16, generator=torch.Generator().manual_seed(size))
    scores_RB = (scores_RB * 8).round() / 8 if tied else scores_RB
    chunks = list(scores_RB.split(30))  # 5 chunks, the last one short; with 5 ranks and fewer, some have none or two
    alone = smallest(chunks, 0.6, scores_RB.numel())
    found = on_ranks(size, lambda crew: smallest(chunks[crew.rank :: size], 0.6, scores_RB.numel(), crew, len(chunks)))
    for number, theirs in enumerate(found):
        for mine, whole in zip(theirs, alone[number::size], strict=True):
            assert torch.equal(mine, whole)


@given(st.lists(VALUES, min_size=24, max_size=24), st.sampled_from([(2, 4), (1, 3), (4, 8), (5, 6), (11, 12)]))
def test_rows_and_groups_choose_those_of_a_stable_sort(values, pattern):
    scores_RC = torch.tensor(values).view(2, 12) if pattern[1] != 8 else torch.tensor(values).view(1, 24)
    zeros, group = pattern
    found = smallest_of_groups(scores_RC, zeros, group).view(-1, group)
    for scores, chosen in zip(scores_RC.view(-1, group), found, strict=True):
        assert torch.equal(chosen, expected(scores[None], zeros)[0])
    for scores, chosen in zip(scores_RC, smallest_of_rows(scores_RC, 0.5), strict=True):
        assert torch.equal(chosen, expected(scores[None], scores_RC.shape[1] // 2)[0])


def test_columns_that_are_no_whole_groups_are_an_error():
    with pytest.raises(ValueError, match="whole groups"):
        smallest_of_groups(torch.rand(2, 10), 2, 4)
