"""Corpus BLEU of 0 to 100 by the library sacrebleu with its defaults (Post 2018)."""

# `evaluate` reads the imports of this file line by line, and takes one module in each.
import datasets
import evaluate

from lora_dist.evaluation.metric_statistics import value_of
from lora_dist.evaluation.text_metrics import Bleu as CorpusBleu

_TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
_INPUTS = "predictions, references: texts, one reference for each prediction."


class Bleu(evaluate.Metric):
    """{bleu: 0 to 100}."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=_INPUTS, features=_TEXTS)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        metric = CorpusBleu()
        return {"bleu": value_of(metric, metric.statistics(predictions, references))}
