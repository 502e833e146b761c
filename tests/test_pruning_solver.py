"""SparseGPT's numbers against a reference that shares nothing with it, and against what they have to satisfy."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from pruning_cases import on_ranks
from reference_sparsegpt import error_of, reference

from lora_dist.models.device import one_thread
from lora_dist.pruning import factor
from lora_dist.pruning.crew import ALONE
from lora_dist.pruning.factor import HessianError, factor_with_damping, upper_factor
from lora_dist.pruning.hessian import Gram, SquareSums
from lora_dist.pruning.solver import CHUNK_ROWS, magnitude, sparsegpt, wanda

GOALS = (0.3, 0.5, 0.8, "2:4", "4:8", "1:3")


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def problem(rows=24, columns=96, tokens=400, seed=0, condition=1.0, dtype=torch.float64):
    """A weight and the Hessian of inputs whose directions differ in size by `condition`."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64))[0]
    sizes = torch.logspace(0, -float(np.log10(condition)), columns, dtype=torch.float64)
    x_TC = torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ (mixing * sizes) @ mixing.T
    weight_RC = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return weight_RC.to(dtype), (2 * x_TC.T @ x_TC / 4).to(dtype)


def damped(hessian_CC, damping=0.01):
    return hessian_CC + damping * hessian_CC.diagonal().mean() * torch.eye(len(hessian_CC), dtype=hessian_CC.dtype)


def solve(weight_RC, hessian_CC, goal, block_size=128):
    solved = sparsegpt(weight_RC, upper_factor(hessian_CC, 0.01), goal, block_size=block_size)
    return solved.weight_RC, solved.squared_error


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"columns": 312, "rows": 10},  # no whole blocks of 128
        {"columns": 96, "tokens": 40},  # fewer tokens than columns: only the damping makes the Hessian definite
        {"condition": 1e4, "seed": 1},
        {"condition": 1e6, "seed": 2, "columns": 144},
    ],
    ids=["random", "ragged", "few tokens", "condition 1e8", "condition 1e12"],  # of the Hessian
)
def test_masks_and_weights_are_those_of_the_paper(goal, case):
    weight_RC, hessian_CC = problem(**case)
    found_RC, _ = solve(weight_RC, hessian_CC, goal)
    expected, keep = reference(weight_RC.numpy(), damped(hessian_CC).numpy(), goal)
    assert np.array_equal(found_RC.numpy() != 0, keep)
    np.testing.assert_allclose(found_RC.numpy(), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("goal", [0.5, "2:4"])
def test_float32_chooses_what_float64_does_but_for_ties_of_rounding(goal):
    weight_RC, hessian_CC = problem(rows=64, columns=256, condition=1e2)
    exact_RC, _ = solve(weight_RC, hessian_CC, goal)
    found_RC, _ = solve(weight_RC.float(), hessian_CC.float(), goal)
    assert ((found_RC == 0) != (exact_RC == 0)).double().mean() < 1e-3


@pytest.mark.parametrize("goal", GOALS)
def test_the_squared_errors_are_the_change_weighed_by_the_hessian(goal):
    weight_RC, hessian_CC = problem(columns=144, condition=30)
    found_RC, squared_error = solve(weight_RC, hessian_CC, goal, block_size=48)
    assert squared_error == pytest.approx(error_of(weight_RC, found_RC, damped(hessian_CC)), rel=1e-10)


def test_columns_pruned_first_leave_the_least_squares_solution():
    """With the first columns gone, the rest has a closed form: w_kept + w_gone H_gk (H_kk)^-1."""
    weight_RC, hessian_CC = problem(columns=64)
    gone = 24
    weight_RC += weight_RC.sign()
    weight_RC[:, :gone] *= 1e-3  # so that these are the smallest
    block = 64
    found_RC, _ = solve(weight_RC, hessian_CC, gone / block, block_size=block)
    assert (found_RC[:, :gone] == 0).all()
    h_CC = damped(hessian_CC)
    update = weight_RC[:, :gone] @ h_CC[:gone, gone:] @ torch.linalg.inv(h_CC[gone:, gone:])
    torch.testing.assert_close(found_RC[:, gone:], weight_RC[:, gone:] + update, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("goal", [0.5, "2:4"])
def test_least_squares_with_the_same_mask_bounds_each_row_s_error_from_below(goal):
    weight_RC, hessian_CC = problem(condition=100)
    found_RC, _ = solve(weight_RC, hessian_CC, goal)
    h_CC = damped(hessian_CC)
    for row, found in zip(weight_RC, found_RC, strict=True):
        gone = found == 0
        best = row.clone()
        best[gone] = 0
        best[~gone] += torch.linalg.solve(h_CC[~gone][:, ~gone], h_CC[~gone][:, gone] @ row[gone])
        least, ours = error_of(row[None], best[None], h_CC), error_of(row[None], found[None], h_CC)
        assert least <= ours * (1 + 1e-9)


@pytest.mark.parametrize("goal", [0.5, "2:4"])
def test_a_diagonal_hessian_means_magnitude_within_a_block_and_no_update(goal):
    weight_RC, _ = problem(columns=64)
    found_RC, _ = solve(weight_RC, torch.eye(64, dtype=torch.float64), goal, block_size=64)
    assert torch.equal(found_RC, weight_RC.masked_fill(magnitude(weight_RC, goal), 0))


@pytest.mark.parametrize("goal", [0.5, 0.7, "2:4", "4:8"])
@pytest.mark.parametrize("seed", range(3))
def test_the_error_is_below_wanda_s_and_magnitude_s(goal, seed):
    weight_RC, hessian_CC = problem(rows=48, columns=128, condition=20, seed=seed)
    found_RC, _ = solve(weight_RC, hessian_CC, goal)
    norm_C = hessian_CC.diagonal().sqrt()
    rivals = {
        "wanda": weight_RC.masked_fill(wanda(weight_RC, norm_C, goal), 0),
        "magnitude": weight_RC.masked_fill(magnitude(weight_RC, goal), 0),
    }
    zeros = int((found_RC == 0).sum())
    for name, rival_RC in rivals.items():
        assert int((rival_RC == 0).sum()) == pytest.approx(zeros, rel=0.01)  # rounded by row, by matrix, by block
        assert error_of(weight_RC, found_RC, hessian_CC) < error_of(weight_RC, rival_RC, hessian_CC), name


def test_each_block_has_exactly_its_share_of_zeros():
    weight_RC, hessian_CC = problem(rows=17, columns=300)
    found_RC, _ = solve(weight_RC, hessian_CC, 0.37)
    for block_RB in found_RC.split(128, dim=1):
        assert int((block_RB == 0).sum()) == int(0.37 * block_RB.numel() + 0.5)


@pytest.mark.parametrize(
    ("pattern", "zeros", "group"), [("2:4", 2, 4), ("4:8", 4, 8), ("3:7", 3, 7), ("40:64", 40, 64)]
)
def test_each_group_has_exactly_its_zeros(pattern, zeros, group):
    columns = 7 * 64
    weight_RC, hessian_CC = problem(rows=9, columns=columns)
    found_RC, _ = solve(weight_RC, hessian_CC, pattern)
    assert ((found_RC == 0).view(9, columns // group, group).sum(-1) == zeros).all()
    for mask_RC in (wanda(weight_RC, hessian_CC.diagonal().sqrt(), pattern), magnitude(weight_RC, pattern)):
        assert (mask_RC.view(9, columns // group, group).sum(-1) == zeros).all()


@pytest.mark.parametrize("goal", [0.0, 0.5, "2:4"])
def test_what_a_matrix_becomes_does_not_depend_on_the_rows_it_is_worked_on_with(goal):
    """Chunks of rows that other ranks have change thresholds only: here all of them are in one place."""
    chunk = CHUNK_ROWS["cpu"]
    weight_RC, hessian_CC = problem(rows=chunk + 5, columns=16, dtype=torch.float32)
    whole_RC, _ = solve(weight_RC, hessian_CC, goal)
    if isinstance(goal, str):
        alone_RC, _ = solve(weight_RC[chunk:], hessian_CC, goal)
        assert torch.equal(whole_RC[chunk:], alone_RC)
    expected = round(0.5 * weight_RC.numel()) if goal else 0
    assert int((whole_RC == 0).sum()) == expected


def test_wanda_and_magnitude_are_what_their_papers_say():
    weight_RC, hessian_CC = problem(rows=10, columns=20)
    norm_C = hessian_CC.diagonal().sqrt()
    gone_RC = wanda(weight_RC, norm_C, 0.3)
    for row, gone in zip(weight_RC, gone_RC, strict=True):
        assert set(torch.nonzero(gone)[:, 0].tolist()) == set((row.abs() * norm_C).argsort()[:6].tolist())
    flat = weight_RC.abs().flatten()
    assert set(torch.nonzero(magnitude(weight_RC, 0.3).flatten())[:, 0].tolist()) == set(flat.argsort()[:60].tolist())


@pytest.mark.parametrize("columns", [1, 7, 700, 1101, 1300])  # odd ones, and several panels and halves
def test_the_factor_is_the_upper_cholesky_factor_of_the_inverse(columns):
    _, hessian_CC = problem(columns=columns, tokens=2000)
    before_CC = hessian_CC.clone()
    upper_CC = upper_factor(hessian_CC, 0.01)
    assert torch.equal(hessian_CC, before_CC)  # another damping may have to be tried
    assert upper_CC.mT.is_contiguous()
    expected_CC = torch.linalg.cholesky(torch.linalg.inv(damped(hessian_CC)), upper=True)
    torch.testing.assert_close(upper_CC, expected_CC, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("goal", [0.5, "2:4"])
def test_ranks_that_share_a_matrix_get_the_bits_that_one_alone_does(size, goal, monkeypatch):
    monkeypatch.setattr(factor, "TILE", 40)
    monkeypatch.setitem(CHUNK_ROWS, "cpu", 7)
    weight_RC, hessian_CC = problem(rows=25, columns=200, dtype=torch.float32)

    def prune(crew=ALONE):
        upper_CC = upper_factor(hessian_CC, 0.01, crew)
        return upper_CC, sparsegpt(weight_RC, upper_CC, goal, crew=crew)

    upper_CC, alone = prune()
    for theirs_CC, solved in on_ranks(size, prune):
        assert torch.equal(theirs_CC, upper_CC)
        assert torch.equal(solved.weight_RC, alone.weight_RC)
        assert solved.squared_error == alone.squared_error


def test_dead_columns_are_zero_and_the_weight_that_was_given_is_left_alone():
    weight_RC, hessian_CC = problem(columns=32, dtype=torch.float32)
    dead_C = torch.zeros(32, dtype=torch.bool)
    dead_C[[3, 31]] = True
    given_RC = weight_RC.bfloat16()
    before_RC = given_RC.clone()
    solved = sparsegpt(given_RC, upper_factor(hessian_CC, 0.01), 0.0, dead_C=dead_C)
    assert solved.weight_RC.dtype == torch.bfloat16
    assert torch.equal(solved.weight_RC, before_RC.masked_fill(dead_C, 0))
    assert torch.equal(given_RC, before_RC)


@pytest.mark.parametrize("size", [1, 3])
def test_a_hessian_that_is_not_definite_is_an_error_on_every_rank(size, monkeypatch):
    monkeypatch.setattr(factor, "TILE", 8)
    _, hessian_CC = problem(columns=32, dtype=torch.float32)
    hessian_CC[3, 4] = hessian_CC[4, 3] = 1.2 * hessian_CC.diagonal().mean()

    def fails(crew):
        with pytest.raises(HessianError):
            upper_factor(hessian_CC, 0.01, crew)
        return True

    assert on_ranks(size, fails) == size * [True]


def test_a_hessian_that_is_not_definite_gets_more_damping_and_says_so(caplog):
    _, hessian_CC = problem(columns=32, dtype=torch.float32)
    hessian_CC[0, 1] = hessian_CC[1, 0] = 1.2 * hessian_CC.diagonal().mean()  # beyond what any inputs would give
    with pytest.raises(HessianError) as caught:
        upper_factor(hessian_CC, 0.01)
    assert caught.value.damping == 0.01
    upper_CC, damping = factor_with_damping(hessian_CC, 0.01, "q_proj")
    assert damping in (pytest.approx(0.1), pytest.approx(1.0), pytest.approx(10.0))
    assert "q_proj" in caplog.text
    expected_CC = torch.linalg.inv(damped(hessian_CC, damping).double())
    torch.testing.assert_close((upper_CC.T @ upper_CC).double(), expected_CC, rtol=1e-3, atol=1e-6)


def test_inputs_that_are_not_finite_are_an_error_and_never_the_identity():
    _, hessian_CC = problem(columns=8, dtype=torch.float32)
    hessian_CC[3, 3] = torch.nan
    with pytest.raises(HessianError):
        factor_with_damping(hessian_CC, 0.01, "q_proj")


@pytest.mark.parametrize("columns", [5, 512, 1100])
def test_moments_are_those_of_the_inputs_in_whatever_order_they_come(columns):
    generator = torch.Generator().manual_seed(0)
    passes = [torch.randn(3, 40, columns, generator=generator) for _ in range(6)]
    grams, squares = [], []
    for order in (passes, passes[::-1], passes[3:] + passes[:3]):
        gram, sums = Gram(columns, torch.device("cpu")), SquareSums(columns, torch.device("cpu"))
        for x in order:
            gram.add(x)
            sums.add(x)
        grams.append(gram)
        squares.append(sums.total)
    x_TC = torch.cat([x.reshape(-1, columns) for x in passes]).double()
    torch.testing.assert_close(grams[0].hessian(18).double(), 2 / 18 * x_TC.T @ x_TC, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(squares[0], x_TC.square().sum(0), rtol=1e-6, atol=0)
    assert all(torch.equal(grams[0].total, other.total) for other in grams)
    assert all(torch.equal(squares[0], other) for other in squares)


def test_spent_moments_hold_nothing_though_somebody_still_holds_them():
    """The widest are hundreds of MiB, and would lie beside the factor that is made of them."""
    gram = Gram(700, torch.device("cpu"))
    gram.add(torch.randn(50, 700, generator=torch.Generator().manual_seed(0)))
    expected_CC = gram.hessian(3)
    total = weakref.ref(gram.total)
    assert torch.equal(gram.spend(3), expected_CC)
    assert total() is None
    assert gram.total.numel() == 0
