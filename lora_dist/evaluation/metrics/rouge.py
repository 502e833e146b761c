"""Mean F-measures of ROUGE-1, -2, -L and -Lsum by the library rouge-score (Lin 2004), without stemming."""

# `evaluate` reads the imports of this file line by line, and takes one module in each.
import datasets
import evaluate

from lora_dist.evaluation.metric_statistics import value_of
from lora_dist.evaluation.text_metrics import text_metrics

_TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
_INPUTS = "predictions, references: texts, one reference for each prediction; Lsum takes each line as a sentence."


class Rouge(evaluate.Metric):
    """{rouge1, rouge2, rougeL, rougeLsum: 0 to 1}."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=_INPUTS, features=_TEXTS)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        metrics = text_metrics(["rouge"], "summarization")
        return {metric.key: value_of(metric, metric.statistics(predictions, references)) for metric in metrics}
