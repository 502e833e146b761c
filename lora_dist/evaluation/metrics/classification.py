"""Accuracy, F1 (mean over classes, and weighted by their rows) and the confusion matrix, by scikit-learn."""

# `evaluate` reads the imports of this file line by line, and takes one module in each.
from typing import Any

import datasets
import evaluate
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

_CLASSES = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
_INPUTS = "predictions, references: numbers of classes. Classes that are in neither do not count."


class Classification(evaluate.Metric):
    """{accuracy, f1_macro, f1_weighted: 0 to 1; confusion: rows [true][predicted]}."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description=_INPUTS, features=_CLASSES)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, Any]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1_macro": float(f1_score(references, predictions, average="macro", zero_division=0)),
            "f1_weighted": float(f1_score(references, predictions, average="weighted", zero_division=0)),
            "confusion": confusion_matrix(references, predictions).tolist(),
        }
