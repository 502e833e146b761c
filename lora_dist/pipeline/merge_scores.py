"""A merge measured: the base, the base with each adapter, and what became of them, on the same token ids."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lora_dist.config.experiment import Run
from lora_dist.config.sections import MethodSection
from lora_dist.data.tokens import TokenisedData, TokenSet
from lora_dist.errors import ModelError
from lora_dist.evaluation.perplexity import RowScores, explain_worse_than_uniform, score_rows
from lora_dist.evaluation.statistics import perplexity_difference, perplexity_interval
from lora_dist.models.adapter_folder import AdapterFolder
from lora_dist.models.adapters import put_adapter
from lora_dist.models.device import device_of, dtype_of, release_memory
from lora_dist.models.loading import context_length, empty_model, load_model
from lora_dist.models.methods import quantization_config
from lora_dist.models.provenance import FILE
from lora_dist.models.sparse_lora import recall_zeros
from lora_dist.pipeline.preflight import find_or_tokenise
from lora_dist.world import current_world

Progress = Callable[[str, int, int, str], None]
SPLIT = "test"
MERGED = "merged"


@dataclass(frozen=True)
class Yardstick:
    """What a merge is measured on."""

    run: Run
    """Its model is the base; data and evaluate say the rest."""
    tokens: TokenisedData | TokenSet
    adapters: tuple[AdapterFolder, ...]
    methods: tuple[MethodSection | None, ...]
    """What trained each adapter; None for somebody else's."""

    @classmethod
    def of(
        cls,
        run: Run,
        adapters: Sequence[AdapterFolder],
        tokenizer: PreTrainedTokenizerBase,
        tokens_folder: Path,
        progress: Progress,
    ) -> Yardstick:
        """The test split of `run`'s data: the tokens on the disk, where they are these; nothing is written.

        Raises:
            ModelError: an adapter does not say how it was trained in terms of ours.
            UserError: the data cannot be used.
        """
        methods = tuple(map(_method_of, adapters))
        context = context_length(empty_model(run.model))
        tokens = find_or_tokenise(run.data, tokenizer, context, tokens_folder, progress)
        return cls(run, tokens, tuple(adapters), methods)


@dataclass(frozen=True)
class Measured:
    """A model's score."""

    name: str
    scores: RowScores


def measure_merge(yardstick: Yardstick, names: Sequence[str], merged: Path, progress: Progress) -> dict[str, Any]:
    """Score the base, the base with each adapter alone (QLoRA: on its 4-bit base too), and the merged model.

    One model is in memory at a time.

    Args:
        names: what the adapters are called.
        merged: the folder of the merged model.
    Returns:
        For merge.json: split, token_hash, rows, scored_tokens, and models, each with name, perplexity, ci95, and (all
        but the merged one) `merged_minus`: the difference to the merged model with its paired ci95.
    Raises:
        ModelError: a model cannot be loaded, or the base is worse than uniform guessing.
    """
    found = [
        *_on_four_bit(yardstick, names, progress),
        *_bare_and_adapted(
            "base", yardstick, _load(yardstick), list(zip(names, yardstick.adapters, strict=True)), progress
        ),
        Measured(MERGED, _score(yardstick, _load(yardstick, folder=merged), MERGED, progress)),
    ]
    release_memory()
    facts = yardstick.tokens.facts
    return {
        "split": SPLIT,
        "token_hash": facts.token_hash,
        "rows": len(found[0].scores.nll_R),
        "scored_tokens": found[0].scores.scored_tokens,
        "precision": str(dtype_of(yardstick.run.model, _device())).removeprefix("torch."),
        "models": [_in_numbers(item, found[-1], yardstick.run.evaluate.bootstrap_samples) for item in found],
    }


def _on_four_bit(yardstick: Yardstick, names: Sequence[str], progress: Progress) -> Iterator[Measured]:
    """QLoRA adapters where they were trained: on the base in 4 bit, loaded once for all that were quantised alike."""
    alike: dict[bool, list[tuple[str, AdapterFolder, MethodSection]]] = {}
    for name, adapter, method in zip(names, yardstick.adapters, yardstick.methods, strict=True):
        if method is not None and method.kind == "qlora":
            alike.setdefault(method.double_quantization, []).append((name, adapter, method))
    for members in alike.values():
        method = max((method for _, _, method in members), key=lambda method: bool(method.preserve_sparsity))
        run = yardstick.run.model_copy(update={"method": method})
        model = _load(yardstick, quantization=quantization_config(method, dtype_of(run.model, _device())))
        recall_zeros(model, run, None)
        pairs = [(name, adapter) for name, adapter, _ in members]
        scored = _bare_and_adapted("4-bit base", yardstick, model, pairs, progress)
        del model  # or the next one would be loaded beside it
        yield from scored


def _bare_and_adapted(
    title: str,
    yardstick: Yardstick,
    base: PreTrainedModel,
    adapters: Sequence[tuple[str, AdapterFolder]],
    progress: Progress,
) -> Iterator[Measured]:
    """A base, then the base with each adapter, one after the other on the same weights."""
    scores = _score(yardstick, base, title, progress)
    _refuse_nonsense(scores, base, title)
    yield Measured(title, scores)
    for name, adapter in adapters:
        with warnings.catch_warnings(action="ignore"):  # peft tells of the adapter that was on this base before
            adapted = put_adapter(base, adapter.path)
        both = f"{title} + {name}"
        yield Measured(both, _score(yardstick, adapted, both, progress))
        base = adapted.unload()
        del adapted
    del base
    release_memory()


def _method_of(adapter: AdapterFolder) -> MethodSection | None:
    if adapter.provenance is None:
        return None
    try:
        return MethodSection.model_validate(adapter.provenance.method)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"]
        fix = "copy the adapter's folder again, or give --no-evaluate"
        raise ModelError(key=str(adapter.path / FILE), problem=f"has no method of ours ({first})", fix=fix) from error


def _load(yardstick: Yardstick, *, folder: Path | None = None, quantization: Any = None) -> PreTrainedModel:
    release_memory()
    model, device = yardstick.run.model, _device()
    return load_model(model, device=device, dtype=dtype_of(model, device), folder=folder, quantization=quantization)


def _device() -> torch.device:
    return device_of(current_world())


def _score(yardstick: Yardstick, model: torch.nn.Module, name: str, progress: Progress) -> RowScores:
    rows = yardstick.tokens.rows(SPLIT)
    return score_rows(
        model,
        [rows[index] for index in range(len(rows))],
        batch_size=yardstick.run.evaluate.batch_size,
        progress=lambda done, total: progress("evaluate", done, total, f"perplexity of {name}"),
    )


def _refuse_nonsense(scores: RowScores, model: PreTrainedModel, title: str) -> None:
    vocabulary = model.config.get_text_config().vocab_size
    explanation = explain_worse_than_uniform(scores.nll_sum / scores.scored_tokens, vocabulary)
    if explanation is not None:
        raise ModelError(key="data", problem=f"the {title}: {explanation}", fix="correct data.template or the data")


def _in_numbers(item: Measured, merged: Measured, resamples: int) -> dict[str, Any]:
    scores, after = item.scores, merged.scores
    interval = perplexity_interval(scores.nll_R, scores.tokens_R, resamples=resamples)
    numbers = {"name": item.name, "perplexity": scores.perplexity, "ci95": list(interval)}
    if item is merged:
        return numbers
    difference = perplexity_difference(
        after.nll_R, after.tokens_R, scores.nll_R, scores.tokens_R, resamples=resamples
    )  # fmt: skip
    return numbers | {
        "merged_minus": {
            "difference": difference.value,
            "ci95": [difference.low, difference.high],
            "is_shown": difference.excludes_zero,
        }
    }
