"""How the numbers came about: the facts that a reader needs to trust them or to make them again."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from lora_dist.config.sections import ADAPTER_KINDS, SPLITS
from lora_dist.reporting.class_notes import labels_fact
from lora_dist.reporting.measures import ACCURACY, PERPLEXITY
from lora_dist.reporting.pruned import pruning_fact
from lora_dist.reporting.rows import BOOTSTRAP_SEED, Comparison, Group, Row
from lora_dist.reporting.words import count, listed, many, size
from lora_dist.store.record import Record

METHOD = (
    "Perplexity is exp(sum of nll / scored tokens) over a whole split, on token ids that are the same for every row "
    "of a table; padding and prompts are not scored. Intervals are 95% bootstrap intervals over the rows of the "
    "split; differences are paired (both runs resampled on the same rows), and a difference counts as shown only if "
    "its interval leaves out zero. The intervals say nothing about other seeds or other data."
)
CLASSES = (
    "Accuracy is the share of the test rows whose label was predicted (the highest logit), with Wilson's 95% interval; "
    "macro F1 is the mean over labels, weighted F1 that by how many rows have each, with 95% bootstrap intervals over "
    "the rows. Differences are of accuracy and paired (both runs resampled on the same rows), and a difference counts "
    "as shown only if its interval leaves out zero. The intervals say nothing about other seeds or other data."
)
COSTS = (
    "Time per epoch is the median optimizer step times the steps of an epoch, without loading, evaluation and saving; "
    "tok/s counts tokens that are not padding. Peak memory is of the training alone: allocated on an accelerator, "
    "resident on a CPU, the most of all ranks."
)

Fact = tuple[str, str]


def method_words(comparison: Comparison) -> list[str]:
    """How the numbers of these rows came about, a paragraph for each measure."""
    words = {PERPLEXITY.name: METHOD, ACCURACY.name: CLASSES}
    found = dict.fromkeys(group.measure.name for group in comparison.groups) or {PERPLEXITY.name: None}
    return [words[name] for name in found]


def facts(group: Group) -> list[Fact]:
    """What was measured, on what and how, for the rows of one group; a fact in which rows differ says so."""
    found = [
        ("model", _each(group, lambda record: _at(record.model.path, record.model.revision))),
        ("parameters of the base", _each(group, _base_parameters)),
        ("data", _each(group, lambda record: f"{record.data.path} ({record.data.task})")),
        ("examples", _each(group, _examples)),
        ("labels in train", _each(group, labels_fact)),
        ("token hash", group.token_hash),
        ("tokenizer hash", _each(group, lambda record: record.data.tokenizer_hash)),
        ("scored tokens", _each(group, _scored)),
        ("rows begin with BOS", _each(group, lambda record: "yes" if record.data.bos else "no")),
        ("rows cut at max_length", _each(group, lambda record: f"{record.data.truncated_examples:,}")),
        ("seeds", listed(sorted({str(row.seed) for row in group.rows if row.seed is not None}, key=int)) or "none"),
        ("dtype of frozen weights and evaluation", _each(group, lambda record: record.model.dtype)),
        ("dtype of trained weights", _each(group, lambda record: record.model.trainable_dtype)),
        ("pruning", _each(group, pruning_fact)),
        ("quantization", _each(group, _quantization)),
        ("attention", _each(group, lambda record: record.model.attention)),
        ("batch", _each(group, _batch)),
        ("training", _each(group, _training)),
        ("resumed from steps", _each(group, _resumed)),
        ("resamples", _resamples(group)),
    ]
    return [(what, value) for what, value in found if value]


def environment_facts(rows: Sequence[Row]) -> list[Fact]:
    """Machine and versions, one line each; what differs between rows is said with their names."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.record:
            for what, value in _flat(row.record.environment):
                values[what][value].append(row.name)
    return [(what, _told(found)) for what, found in values.items()]


def commands(comparison: Comparison) -> list[str]:
    """What to type to make these numbers again, and to make this report again."""
    compare = [f"lora-dist compare {shlex.quote(str(source.folder.experiment))}" for source in comparison.sources]
    folders = " ".join(shlex.quote(str(source.folder.path)) for source in comparison.sources)
    return [*compare, f"lora-dist report {folders}"]


def _each(group: Group, fact: Callable[[Record], Any]) -> str:
    """The fact, said once where all rows agree; else each value with the rows that have it. Empty if none has it."""
    values: dict[str, list[str]] = defaultdict(list)
    for row in group.rows:
        if row.record and (value := fact(row.record)) is not None:
            values[str(value)].append(row.name)
    return _told(values)


def _told(values: dict[str, list[str]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())


def _at(path: str, revision: str | None) -> str:
    return f"{path} at {revision}" if revision else path


def _base_parameters(record: Record) -> str | None:
    """Only a run without an adapter says how large the base is."""
    added = record.method.get("kind") in ADAPTER_KINDS
    return None if added else f"{record.model.parameters_total:,} ({count(record.model.parameters_total)})"


def _examples(record: Record) -> str:
    data = record.data
    return f"{data.train_examples:,} train, {data.validation_examples:,} validation, {data.eval_examples:,} test"


def _scored(record: Record) -> str:
    found = [(split, record.evaluate[split].get("scored_tokens")) for split in SPLITS if split in record.evaluate]
    return ", ".join(f"{tokens:,} {split}" for split, tokens in found if tokens is not None)


def _quantization(record: Record) -> str | None:
    found = record.model.quantization
    if found is None:
        return None
    double = ", double quantisation" if found.double_quantization else ""
    return f"{found.kind}{double}, {many(found.linears_4bit, 'linear')}, computing in {found.compute_dtype}"


def _batch(record: Record) -> str | None:
    train = record.train
    if train is None:
        return None
    zero = f", ZeRO-{train.zero_stage}" if train.zero_stage else ""
    return (
        f"{train.micro_batch_size} x {train.accumulation} x {many(train.world_size, 'rank')} = "
        f"{many(train.global_batch_size, 'sequence')} per step{zero}"
    )


def _training(record: Record) -> str | None:
    train = record.train
    if train is None:
        return None
    done = f"{many(train.steps, 'step')}, {train.epochs:g} epochs, {train.tokens:,} tokens"
    if record.data.labels:
        return f"{done} in {many(train.scored_tokens, 'row')}"
    return f"{done}, {train.scored_tokens:,} of them scored"


def _resumed(record: Record) -> str | None:
    steps = record.train.resumed_from_steps if record.train else []
    return ", ".join(str(step) for step in steps) or None


def _resamples(group: Group) -> str:
    numbers = sorted({row.run.evaluate.bootstrap_samples for row in group.rows})
    return f"{listed([f'{number:,}' for number in numbers])}, bootstrap seed {BOOTSTRAP_SEED}"


def _flat(environment: dict[str, Any]) -> list[Fact]:
    flat: list[Fact] = []
    for key, value in environment.items():
        if key == "packages" and isinstance(value, dict):
            flat += [(name, str(version)) for name, version in value.items() if version]
        elif key.endswith("_bytes") and isinstance(value, int | float):
            flat.append((key.removesuffix("_bytes"), size(value)))
        elif key == "git" and isinstance(value, dict):
            flat.append(("commit", f"{value.get('commit')}{' with local changes' if value.get('dirty') else ''}"))
        elif isinstance(value, dict):
            flat += [(f"{key} {name}", str(inner)) for name, inner in value.items() if inner is not None]
        elif value is not None:
            flat.append((key, str(value)))
    return flat
