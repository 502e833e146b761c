"""What generated answers are judged by: for each answer its statistics, and a value over any set of answers.

A metric over R answers is a function of the sum of their statistics, so that a bootstrap resample, which draws answers
with replacement, costs a product of matrices. ROUGE is rouge-score's and BLEU sacrebleu's; nothing is counted anew.
"""

# Dims: R answers, K statistics of a metric, S resamples.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lora_dist.config.sections import Metric, Task
from lora_dist.evaluation.answers import is_same_number, normalised

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import Score
    from sacrebleu.metrics import BLEU

ROUGE_KEYS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class TextMetric(Protocol):
    """One number about answers."""

    key: str
    is_share: bool
    """Whether every answer is right or wrong, so that the value is a share of them."""

    def statistics(self, predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """Float64 [R, K]: what each answer adds."""

    def values(self, sums_SK: np.ndarray, rows: int) -> np.ndarray:
        """Float64 [S]: the metric of S sets of `rows` answers, from the sums of their statistics."""

    def by_row(self, statistics_RK: np.ndarray) -> list[float]:
        """The metric of each answer by itself."""


@dataclass(frozen=True)
class RowMean:
    """A mean over answers of a score between 0 and 1."""

    key: str
    score: Callable[[str, str], float]
    is_share: bool = False

    def statistics(self, predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """[R, 1]: the scores."""
        pairs = zip(predictions, references, strict=True)
        return np.array([[self.score(prediction, reference)] for prediction, reference in pairs], np.float64)

    def values(self, sums_SK: np.ndarray, rows: int) -> np.ndarray:
        """The means."""
        return sums_SK[:, 0] / rows

    def by_row(self, statistics_RK: np.ndarray) -> list[float]:
        """The scores."""
        return statistics_RK[:, 0].tolist()


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU of 0 to 100 by sacrebleu's defaults (13a tokens, exponential smoothing; Post 2018)."""

    key: str = "bleu"
    is_share: bool = False

    def statistics(self, predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """[R, 10]: length of the answer and of its reference, then n-grams found and n-grams there, for n of 1 to 4."""
        found = [
            _sacrebleu().corpus_score([prediction], [[reference]])
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in found], np.float64)

    def values(self, sums_SK: np.ndarray, rows: int) -> np.ndarray:  # noqa: ARG002 - BLEU does not depend on it
        """BLEU of each sum."""
        return np.array([_bleu_of([round(value) for value in sums_K]) for sums_K in sums_SK], np.float64)

    def by_row(self, statistics_RK: np.ndarray) -> list[float]:
        """BLEU of each answer as a corpus of one."""
        return self.values(statistics_RK, 1).tolist()


def text_metrics(keys: Sequence[Metric], task: Task) -> list[TextMetric]:
    """The metrics that `evaluate.metrics` names; rouge stands for its four."""
    found: list[TextMetric] = []
    for key in keys:
        if key == "exact_match":
            found.append(RowMean(key, exact_number if task == "math" else exact_words, is_share=True))
        elif key == "f1":
            found.append(RowMean(key, token_f1))
        elif key == "rouge":
            found += [RowMean(rouge, _rouge_score(rouge)) for rouge in ROUGE_KEYS]
        elif key == "bleu":
            found.append(Bleu())
    return found


def exact_number(prediction: str, reference: str) -> float:
    """1 where both end with the same number, else 0."""
    return float(is_same_number(prediction, reference))


def exact_words(prediction: str, reference: str) -> float:
    """1 where both are the same words (case, punctuation and articles aside), else 0."""
    return float(normalised(prediction) == normalised(reference))


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the words of both as bags (SQuAD, arXiv 1606.05250); 1 where both have none."""
    said, expected = normalised(prediction).split(), normalised(reference).split()
    if not said or not expected:
        return float(said == expected)
    common = sum((Counter(said) & Counter(expected)).values())
    return 2 * common / (len(said) + len(expected))


def _rouge_score(key: str) -> Callable[[str, str], float]:
    return lambda prediction, reference: _rouge(prediction, reference)[key].fmeasure


@lru_cache(maxsize=20_000)
def _rouge(prediction: str, reference: str) -> dict[str, Score]:
    """All four kinds of one pair: they are asked for one after the other, over all pairs each."""
    return _rouge_scorer().score(reference, prediction)


@cache
def _rouge_scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(ROUGE_KEYS)


def _bleu_of(sums_K: list[int]) -> float:
    said, expected, counts = sums_K[0], sums_K[1], sums_K[2:]
    half, bleu = len(counts) // 2, _sacrebleu()
    return bleu.compute_bleu(
        counts[:half], counts[half:], said, expected, smooth_method=bleu.smooth_method, smooth_value=bleu.smooth_value,
        effective_order=bleu.effective_order, max_ngram_order=bleu.max_ngram_order,
    ).score  # fmt: skip


@cache
def _sacrebleu() -> BLEU:
    from sacrebleu.metrics import BLEU

    return BLEU()
