"""Intervals for perplexities by bootstrap over rows. numpy only: reports are made on login nodes."""

# Dims: R rows, S resamples, s resamples of one chunk.
#
# The rows (documents, questions) are the sample, not their tokens: tokens of one row are not independent. A resample
# draws R rows with replacement and takes exp(sum of nll / sum of tokens) over them (Efron & Tibshirani 1993, ch. 13,
# percentile intervals). Two arms are resampled together, on the same rows, so that what rows share cancels.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

FEWEST_ROWS = 6
"""With fewer rows no difference counts as shown: even if all of them agree, a two-sided sign test says 2 / 2^R > 5%,
while a percentile interval over so few rows is far too narrow (over one row it is a point)."""

_CHUNK_DRAWS = 2**21  # row draws held at once: 16 MiB of counts


@dataclass(frozen=True)
class Difference:
    """A difference of two measured numbers and its interval."""

    value: float
    low: float
    high: float
    rows: int
    """How many rows it rests on."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval leaves out zero and rests on at least `FEWEST_ROWS` rows."""
        return self.rows >= FEWEST_ROWS and (self.low > 0 or self.high < 0)


def perplexity_interval(
    nll_R: np.ndarray, tokens_R: np.ndarray, *, resamples: int, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of exp(sum nll / sum tokens) over rows; the same for the same seed.

    `nll_R` in nats, `tokens_R` scored tokens (at least 1 each). A single row has no spread to learn from: its interval
    is the point itself, which says nothing.

    Raises:
        ValueError: no rows, lengths that differ, a value that is not finite, or a row without tokens.
    """
    nll_R, tokens_R = _checked(nll_R, tokens_R)
    perplexities_S = np.concatenate(
        [_perplexities(counts_sR, nll_R, tokens_R) for counts_sR in resampled_counts(len(nll_R), resamples, seed)]
    )
    return percentiles(perplexities_S, level)


def perplexity_difference(
    nll_a_R: np.ndarray,
    tokens_a_R: np.ndarray,
    nll_b_R: np.ndarray,
    tokens_b_R: np.ndarray,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Perplexity of a minus perplexity of b on the same rows, with its paired bootstrap interval.

    Raises:
        ValueError: the arms differ in rows or in tokens per row (not the same data), or as `perplexity_interval`.
    """
    nll_a_R, tokens_a_R = _checked(nll_a_R, tokens_a_R)
    nll_b_R, tokens_b_R = _checked(nll_b_R, tokens_b_R)
    if not np.array_equal(tokens_a_R, tokens_b_R):
        raise ValueError(
            f"the arms were not scored on the same data: {len(nll_a_R)} rows with {tokens_a_R.sum():.0f} tokens, "
            f"and {len(nll_b_R)} rows with {tokens_b_R.sum():.0f} tokens"
        )
    differences_S = np.concatenate(
        [
            _perplexities(counts_sR, nll_a_R, tokens_a_R) - _perplexities(counts_sR, nll_b_R, tokens_b_R)
            for counts_sR in resampled_counts(len(nll_a_R), resamples, seed)
        ]
    )
    once_1R = np.ones((1, len(nll_a_R)))
    value = _perplexities(once_1R, nll_a_R, tokens_a_R) - _perplexities(once_1R, nll_b_R, tokens_b_R)
    return Difference(float(value[0]), *percentiles(differences_S, level), rows=len(nll_a_R))


def wilson(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927), which stays within 0..1 and is no point at 0 and 1.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z / (1 + z**2 / trials) * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _checked(nll_R: np.ndarray, tokens_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [R], after their checks."""
    nll_R, tokens_R = np.asarray(nll_R, np.float64), np.asarray(tokens_R, np.float64)
    if nll_R.ndim != 1 or nll_R.shape != tokens_R.shape or nll_R.size == 0:
        raise ValueError(f"nll has shape {nll_R.shape} and tokens {tokens_R.shape}; both have to be [rows], not empty")
    if not np.isfinite(nll_R).all() or not np.isfinite(tokens_R).all() or tokens_R.min() < 1:
        raise ValueError("every row needs a finite nll and at least one scored token")
    return nll_R, tokens_R


def resampled_counts(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample drew each row, float64 [s, R], a bounded number of resamples at a time."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it has to be at least 1")
    random = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_DRAWS // rows)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn_sR = random.integers(0, rows, size=(size, rows))
        drawn_sR += np.arange(size)[:, None] * rows
        yield np.bincount(drawn_sR.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)


def _perplexities(counts_sR: np.ndarray, nll_R: np.ndarray, tokens_R: np.ndarray) -> np.ndarray:
    """Perplexity [s] of each resample; infinity above e^709."""
    with np.errstate(over="ignore"):
        return np.exp((counts_sR @ nll_R) / (counts_sR @ tokens_R))


def percentiles(values_S: np.ndarray, level: float) -> tuple[float, float]:
    """The ends of the percentile interval: what leaves out (1 - level) / 2 of the values on either side."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it has to be between 0 and 1")
    low, high = np.quantile(values_S, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
