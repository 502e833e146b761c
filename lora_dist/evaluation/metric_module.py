"""Our metrics for other programs: `evaluate.load(str(metric_path("rouge")))`, without network."""

from __future__ import annotations

from pathlib import Path

METRIC_MODULES = ("exact_match", "token_f1", "rouge", "bleu", "classification")


def metric_path(name: str) -> Path:
    """The file that `evaluate.load` takes.

    Raises:
        ValueError: no metric has this name.
    """
    if name not in METRIC_MODULES:
        raise ValueError(f"'{name}' is not one of {', '.join(METRIC_MODULES)}")
    return Path(__file__).parent / "metrics" / f"{name}.py"
