"""The evaluation stage: what a run left on the disk, opened anew and measured, down to its record.

The model is always loaded from `model/` (the base from its source), so that the record's numbers are those of the
files a user will open, whether or not the run was stopped in between.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_dist.config.classification import is_classification
from lora_dist.config.experiment import Run
from lora_dist.config.sections import ADAPTER_KINDS
from lora_dist.data.text_bytes import TextBytes
from lora_dist.data.tokens import NOT_SCORED, TokenSet
from lora_dist.errors import ModelError
from lora_dist.evaluation.kernel_speed import measure_sparse_kernels
from lora_dist.evaluation.perplexity import Row, RowScores, bits_per_byte, explain_worse_than_uniform, score_rows
from lora_dist.evaluation.scores import write_scores
from lora_dist.evaluation.statistics import perplexity_interval
from lora_dist.models.adapters import put_adapter
from lora_dist.models.device import device_of, dtype_of, release_memory, synchronize
from lora_dist.models.loading import load_model
from lora_dist.models.methods import describe_model, quantization_config
from lora_dist.models.sparse_lora import recall_zeros
from lora_dist.pipeline.fallback import method_part
from lora_dist.pipeline.generated import generate_for_run, with_judged
from lora_dist.pipeline.measure_classes import measure_classes
from lora_dist.pipeline.merged_forms import SPLIT, Forms, wants_forms
from lora_dist.pipeline.prune_figures import prune_part
from lora_dist.pipeline.scored_rows import scored_rows
from lora_dist.store.atomic import make_folder, write_json
from lora_dist.store.environment import capture_environment
from lora_dist.store.folders import RunFolder
from lora_dist.store.histories import history_of
from lora_dist.store.record import DataPart, ModelPart, Record, SparseKernels, TrainPart
from lora_dist.team import Team

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int, str], None]


def open_measured(run: Run, folder: RunFolder, device: torch.device, adapter: Path | None) -> PreTrainedModel:
    """The model of a run as it is measured: the (pruned) base, the base with an adapter, or the trained weights."""
    dtype = dtype_of(run.model, device)
    if run.method.kind in ADAPTER_KINDS or not run.trains:
        quantization = quantization_config(run.method, dtype)
        pruned = folder.pruned if run.prune else None
        base = load_model(run.model, device=device, dtype=dtype, folder=pruned, quantization=quantization)
        recall_zeros(base, run, pruned)
        adapter = folder.model if run.trains else adapter
        return put_adapter(base, adapter) if adapter else base
    return load_model(run.model, device=device, dtype=dtype, folder=folder.model)


def measure_run(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    team: Team,
    progress: Progress,
    *,
    seconds_before: float,
    devices: int | None = None,
    adapter: Path | None = None,
    sparse_kernels: bool = False,
) -> Record:
    """Score every split, generate the samples, and write the scores, the predictions and, last, the record.

    The ranks of the team share the work, and rank 0 writes.

    Args:
        seconds_before: wall-clock seconds of this attempt before this stage.
        devices: how many the run holds; the ranks' number unless given.
        adapter: put on a base that is measured with it; a trained run brings its own.
        sparse_kernels: score the test once more with 2:4 kernels, where there are any.
    Raises:
        ModelError: 2:4 kernels compute something else than dense ones; or the base is worse than uniform
            guessing, which is a mistake of measurement.
    """
    started = time.perf_counter()
    forms = Forms(run, folder, tokens.rows(SPLIT), team, progress) if wants_forms(run) else None
    live = _measure_live(run, folder, tokens, tokenizer, team, progress, adapter, forms, sparse_kernels)
    if forms is not None:
        release_memory()
        forms.measure_merged(tokenizer)
    before = history_of(folder.experiment.ledger, folder.id)
    record = Record(
        run_id=folder.id,
        arm=run.arm,
        label=run.label,
        seed=run.seed,
        point=run.point,
        method=method_part(run, folder),
        data=data_part(run, tokens),
        **live,
        merging=forms.found if forms is not None else [],
        merging_problem=forms.problem if forms is not None else None,
        environment=_environment(device_of(team.world)),
        attempts=max(1, len(before.attempts)),
        device_seconds=before.device_seconds
        + (seconds_before + time.perf_counter() - started) * (devices or team.world.size),
    )
    team.first_does(lambda: _write(folder, record))
    return record


def _measure_classifier(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    team: Team,
    progress: Progress,
    adapter: Path | None,
) -> dict[str, Any]:
    """The parts of the record that a classifier tells."""
    classifier, evaluate = measure_classes(run, folder, tokens, tokenizer, team, progress, adapter)
    model_part, train_part = _trained_parts(run, folder, classifier.model)
    if not run.trains:
        model_part = model_part.model_copy(update={"drawn_modules": list(classifier.drawn)})
    return {"model": model_part, "train": train_part, "evaluate": evaluate}


def _measure_live(
    run: Run,
    folder: RunFolder,
    tokens: TokenSet,
    tokenizer: PreTrainedTokenizerBase,
    team: Team,
    progress: Progress,
    adapter: Path | None,
    forms: Forms | None,
    sparse_kernels: bool,
) -> dict[str, Any]:
    """The parts of the record that the model in memory tells; it is gone when this returns."""
    if is_classification(run):
        return _measure_classifier(run, folder, tokens, tokenizer, team, progress, adapter)
    progress("evaluate", 0, 0, "loading the model")
    model = open_measured(run, folder, device_of(team.world), adapter)
    prune = team.first_does(lambda: prune_part(run, folder, model)) if run.prune else None
    text_bytes = TextBytes(tokenizer)
    evaluate = {
        split: _score(run, folder, scored_rows(run, tokens, split), split, model, text_bytes, team, progress)
        for split in run.evaluate.splits
    }
    generation, judged = generate_for_run(run, folder, tokens, tokenizer, model, team, progress)
    evaluate[SPLIT] = with_judged(evaluate[SPLIT], judged)
    model_part, train_part = _trained_parts(run, folder, model)
    if forms is not None:
        forms.measure_trained(model)
    kernels = _measure_kernels(run, tokens, model, progress) if sparse_kernels else None
    parts = {"model": model_part, "train": train_part, "prune": prune, "sparse_kernels": kernels}
    return parts | {"evaluate": evaluate, "generation": generation}


def _measure_kernels(run: Run, tokens: TokenSet, model: PreTrainedModel, progress: Progress) -> SparseKernels:
    progress("evaluate", 0, 0, "scoring with 2:4 kernels")
    return measure_sparse_kernels(model, tokens.rows("test"), batch_size=run.evaluate.batch_size)


def _write(folder: RunFolder, record: Record) -> None:
    write_json(folder.environment, record.environment)
    record.write(folder.record)


def _trained_parts(run: Run, folder: RunFolder, model: PreTrainedModel) -> tuple[ModelPart, TrainPart | None]:
    """What the training stage wrote down of the model and of itself; a run that trains nothing describes `model`."""
    if not run.trains:
        return describe_model(run, model.requires_grad_(False)), None
    training = json.loads(folder.training.read_text(encoding="utf-8"))
    return ModelPart(**training["model"]), TrainPart(**training["train"])


def data_part(run: Run, tokens: TokenSet) -> DataPart:
    """The data part of a record."""
    facts = tokens.facts
    return DataPart(
        task=run.data.task,
        path=run.data.path,
        token_hash=facts.token_hash,
        tokenizer_hash=facts.tokenizer_hash,
        bos=facts.bos,
        train_examples=facts.splits["train"].rows,
        validation_examples=facts.splits["validation"].rows,
        eval_examples=facts.splits["test"].rows,
        truncated_examples=sum(split.truncated for split in facts.splits.values()),
        labels=list(facts.labels) if facts.labels else None,
        label_counts={part: list(split.label_counts) for part, split in facts.splits.items() if split.label_counts}
        or None,
    )


def _score(
    run: Run,
    folder: RunFolder,
    rows: Sequence[Row],
    split: str,
    model: PreTrainedModel,
    text_bytes: TextBytes,
    team: Team,
    progress: Progress,
) -> dict[str, Any]:
    """Score the rows of one split; the numbers for the record, the scores of each row beside it."""
    started = time.perf_counter()
    scores = score_rows(
        model,
        rows,
        batch_size=run.evaluate.batch_size,
        team=team,
        progress=lambda done, total: progress("evaluate", done, total, f"perplexity on {split}"),
    )
    synchronize(model.device)
    seconds = time.perf_counter() - started
    _refuse_nonsense(run, scores, model.config.get_text_config().vocab_size, split)
    if team.world.is_first:
        make_folder(folder.scores)
        write_scores(folder.scores / f"{split}.parquet", scores.nll_R, scores.tokens_R)
    interval = perplexity_interval(scores.nll_R, scores.tokens_R, resamples=run.evaluate.bootstrap_samples)
    return {
        "nll_sum": scores.nll_sum,
        "scored_tokens": scores.scored_tokens,
        "examples": len(rows),
        "perplexity": scores.perplexity,
        "bits_per_byte": bits_per_byte(
            scores.nll_sum, text_bytes.count(ids[labels != NOT_SCORED] for ids, labels in rows)
        ),
        "seconds": seconds,
        "ci95": {"perplexity": list(interval)},
    }


def _refuse_nonsense(run: Run, scores: RowScores, vocabulary: int, split: str) -> None:
    """A base that is worse than guessing is a mistake to be explained, not a row in a table."""
    explanation = explain_worse_than_uniform(scores.nll_sum / scores.scored_tokens, vocabulary)
    if explanation is None:
        return
    if not run.trains:
        raise ModelError(
            key="data", problem=f"the base on {split}: {explanation}", fix="correct data.template or model"
        )
    log.warning("%s on %s: %s", run.label, split, explanation)


def _environment(device: torch.device) -> dict[str, Any]:
    return capture_environment() | {"device": _device_name(device), "threads": torch.get_num_threads()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
