"""Measuring a classifier: what a run left on the disk, opened anew and scored, and some rows that it gets wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_dist.config.experiment import Run
from lora_dist.config.sections import ADAPTER_KINDS
from lora_dist.data.tokens import TokenSet
from lora_dist.evaluation.class_metrics import METRICS, Tally, confusion, metric_interval
from lora_dist.evaluation.class_scores import ClassScores
from lora_dist.evaluation.classes import Row, score_classes
from lora_dist.models.adapters import put_adapter
from lora_dist.models.classifiers import Classes, Classifier, load_classifier
from lora_dist.models.device import device_of, dtype_of, synchronize
from lora_dist.pipeline.scored_rows import scored_rows
from lora_dist.store.atomic import make_folder, write_text
from lora_dist.store.folders import RunFolder
from lora_dist.team import Team

Progress = Callable[[str, int, int, str], None]


def measure_classes(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    team: Team,
    progress: Progress,
    adapter: Path | None,
) -> tuple[Classifier, dict[str, Any]]:
    """Score every split; the classifier, and the record's `evaluate`. The scores of each row are written beside it.

    Args:
        adapter: put on a base that is measured with it; a trained run brings its own.
    """
    progress("evaluate", 0, 0, "loading the model")
    labels = tokens.facts.labels or ()
    classifier = open_classifier(run, folder, Classes(labels, tokenizer.pad_token_id, run.seed), team, adapter)
    found = {}
    for split in run.evaluate.splits:
        rows = scored_rows(run, tokens, split)
        scores, seconds = _score(run, rows, split, classifier.model, tokenizer.pad_token_id, team, progress)
        if team.world.is_first:
            make_folder(folder.scores)
            scores.write(folder.scores / f"{split}.parquet")
        found[split] = split_numbers(run, scores, tokens) | {"seconds": seconds}
        if split == "test":
            lines = _wrong_rows(rows, scores, labels, tokenizer, run.evaluate.samples)
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            team.first_does(lambda text=text: write_text(folder.predictions, text))
    return classifier, found


def open_classifier(run: Run, folder: RunFolder, classes: Classes, team: Team, adapter: Path | None) -> Classifier:
    """The classifier of a run as it is measured: the base with a new head, with an adapter, or the trained weights."""
    device = device_of(team.world)
    place = {"device": device, "dtype": dtype_of(run.model, device)}
    if run.trains and run.method.kind not in ADAPTER_KINDS:
        return load_classifier(run.model, classes, **place, folder=folder.model)
    base = load_classifier(run.model, classes, **place)
    adapter = folder.model if run.trains else adapter
    return Classifier(put_adapter(base.model, adapter), base.drawn) if adapter else base


def split_numbers(run: Run, scores: ClassScores, tokens: TokenSet) -> dict[str, Any]:
    """A split's part of the record: loss and metrics with their intervals, and what the commonest class scores."""
    classes = len(tokens.facts.labels or ())
    counts_CC = confusion(scores.label_R, scores.predicted_R, classes)
    commonest = int(np.argmax(tokens.facts.splits["train"].label_counts or ()))
    return {
        "nll_sum": float(scores.nll_R.sum()),
        "examples": len(scores.nll_R),
        "loss": float(scores.nll_R.mean()),
        **{name: float(metric(Tally.of(counts_CC))) for name, metric in METRICS.items()},
        "majority_accuracy": float(np.mean(scores.label_R == commonest)),
        "confusion": counts_CC.tolist(),
        "ci95": {
            name: list(metric_interval(name, counts_CC, resamples=run.evaluate.bootstrap_samples)) for name in METRICS
        },
    }


def _score(
    run: Run,
    rows: Sequence[Row],
    split: str,
    model: PreTrainedModel,
    pad_token_id: int,
    team: Team,
    progress: Progress,
) -> tuple[ClassScores, float]:
    """The scores of a split's rows, and the seconds that they took."""
    started = time.perf_counter()
    scores = score_classes(
        model,
        rows,
        pad_token_id=pad_token_id,
        batch_size=run.evaluate.batch_size,
        team=team,
        progress=lambda done, total: progress("evaluate", done, total, f"classes of {split}"),
    )
    synchronize(model.device)
    return scores, time.perf_counter() - started


def _wrong_rows(
    rows: Sequence[Row], scores: ClassScores, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, most: int
) -> list[dict[str, Any]]:
    """The first rows that were given another class than theirs, with their text as the model read it."""
    wrong = np.flatnonzero(scores.label_R != scores.predicted_R)[:most]
    return [
        {
            "row": int(index),
            "prompt": tokenizer.decode(rows[int(index)][0], skip_special_tokens=True),
            "reference": labels[scores.label_R[index]],
            "prediction": labels[scores.predicted_R[index]],
        }
        for index in wrong
    ]
