"""Mean F1 of the words of predictions and references as bags (SQuAD, arXiv 1606.05250)."""

# `evaluate` reads the imports of this file line by line, and takes one module in each.
import datasets
import evaluate

from lora_dist.evaluation.text_metrics import token_f1

_TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
_INPUTS = "predictions, references: texts, one reference for each prediction."


class TokenF1(evaluate.Metric):
    """{f1: 0 to 1}."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=_INPUTS, features=_TEXTS)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"f1": sum(map(token_f1, predictions, references)) / len(predictions)}
