"""Share of predictions that say what their reference says: the same words, or the same last number."""

# `evaluate` reads the imports of this file line by line, and takes one module in each.
import datasets
import evaluate

from lora_dist.evaluation.text_metrics import exact_number, exact_words

_TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
_INPUTS = """predictions, references: texts, one reference for each prediction.
numbers: compare the number after the last '####', or the last one, as decimals; else words, without case, punctuation
and articles."""


class ExactMatch(evaluate.Metric):
    """{exact_match: 0 to 1}."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=_INPUTS, features=_TEXTS)

    def _compute(self, predictions: list[str], references: list[str], numbers: bool = False) -> dict[str, float]:
        score = exact_number if numbers else exact_words
        return {"exact_match": sum(map(score, predictions, references)) / len(predictions)}
