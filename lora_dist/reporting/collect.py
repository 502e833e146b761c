"""From experiment folders to a comparison: which runs count, how they group, and what has to be said beside them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from lora_dist.config.expansion import expand
from lora_dist.config.loading import load_experiment
from lora_dist.reporting.answers import answer_notes
from lora_dist.reporting.class_notes import class_notes
from lora_dist.reporting.differences import with_differences
from lora_dist.reporting.early_stopping import early_stopping_notes
from lora_dist.reporting.merging import merging_notes
from lora_dist.reporting.names import short_names, without_seed
from lora_dist.reporting.pruned import pruned_notes
from lora_dist.reporting.rows import Comparison, Group, Row, Source, settings_of
from lora_dist.reporting.words import listed, many
from lora_dist.store.folders import ExperimentFolder
from lora_dist.store.states import run_states

_HASH_SHOWN = 12


def collect(folders: Sequence[ExperimentFolder]) -> Comparison:
    """The comparison of the runs that the folders' experiment.yaml names, finished or not.

    Raises:
        Refused, ConfigError: an experiment.yaml is not one.
        StorageError: a folder cannot be read.
    """
    sources = _sources(folders)
    runs = [(source, run) for source in sources for run in expand(source.experiment)]
    states = [
        state
        for source in sources
        for state in run_states(source.folder, [run.id for run in expand(source.experiment)])
    ]
    names = short_names([(source.name, run) for source, run in runs])
    rows = [Row(source.name, name, run, state) for (source, run), state, name in zip(runs, states, names, strict=True)]
    groups, problems = [], []
    for group in _grouped(rows):
        done, notes = with_differences(group)
        groups.append(done)
        problems += notes
    notes = [
        *_group_notes(groups),
        *problems,
        *_seed_notes(groups),
        *early_stopping_notes(groups),
        *class_notes(groups),
        *pruned_notes(groups),
        *merging_notes(groups),
        *answer_notes(groups),
        *_unequal(groups),
        *_strangers(sources, rows),
    ]
    return Comparison(sources, tuple(groups), tuple(row for row in rows if not row.record), tuple(notes))


def _sources(folders: Sequence[ExperimentFolder]) -> tuple[Source, ...]:
    """Each folder once, under a name of its own."""
    by_path = {folder.path.resolve(): folder for folder in folders}
    counts = Counter(path.name for path in by_path)
    return tuple(
        Source(path.name if counts[path.name] == 1 else str(path), folder, load_experiment(folder.experiment))
        for path, folder in by_path.items()
    )


def _grouped(rows: Sequence[Row]) -> list[Group]:
    by_tokens: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.record:
            by_tokens[row.token_hash].append(row)
    return [Group(token_hash, tuple(members)) for token_hash, members in by_tokens.items()]


def short_hash(token_hash: str) -> str:
    """The beginning of a hash, enough to tell groups apart."""
    return token_hash[:_HASH_SHOWN]


def _group_notes(groups: Sequence[Group]) -> Iterator[str]:
    if len(groups) > 1:
        hashes = listed([short_hash(group.token_hash) for group in groups])
        yield (
            f"These runs were scored on {len(groups)} different sets of tokens ({hashes}). Perplexities and "
            "differences compare only within one set; across sets only bits per byte does, and only if the texts are "
            "the same."
        )
    for group in groups:
        here = f" on tokens {short_hash(group.token_hash)}" if len(groups) > 1 else ""
        if not group.of_kind("base"):
            yield f"No finished zero-shot run (method.kind: base){here}: what training gained is not known."
        if not group.of_kind("full"):
            yield f"No finished full fine-tuning run (method.kind: full){here}: whether less is enough is not known."
        if not all(row.quality() for row in group.rows):
            missing = listed([row.name for row in group.rows if not row.quality()])
            yield f"No test {group.measure.name} in the record of {missing}."


def _seed_notes(groups: Sequence[Group]) -> Iterator[str]:
    """The spread over seeds, which the intervals (over test rows) say nothing about."""
    for rows in (
        seeds for group in groups for seeds in settings_of([row for row in group.rows if row.seed is not None])
    ):
        values = [estimate.value * row.measure.scale for row in rows if (estimate := row.quality())]
        if len(values) > 1:
            name, sign = without_seed(rows[0]), rows[0].measure.sign
            yield (
                f"{name}: mean test {rows[0].measure.name} {sum(values) / len(values):.4g}{sign} over {len(values)} "
                f"seeds (from {min(values):.4g}{sign} to {max(values):.4g}{sign})."
            )


def _unequal(groups: Sequence[Group]) -> Iterator[str]:
    """What differs between finished rows and touches their comparison."""
    rows = [row for group in groups for row in group.rows if row.record]
    for group in groups:
        here = f" (tokens {short_hash(group.token_hash)})" if len(groups) > 1 else ""
        for what, values in _confounds(group).items():
            if len(values) > 1:
                told = "; ".join(f"{value}: {listed(names)}" for value, names in values.items())
                yield f"The rows{here} differ in {what}: {told}."
    machines = {_machine(row.record.environment) for row in rows if row.record}
    if len(machines) > 1:
        yield (
            f"The runs were made on {len(machines)} different machines: times, speeds and memory of rows from "
            "different machines do not compare."
        )


def _confounds(group: Group) -> dict[str, dict[str, list[str]]]:
    """What, beside the method, may move a perplexity: its values, each with the names of its rows."""
    found: dict[str, dict[str, list[str]]] = {
        what: defaultdict(list) for what in ("dtype", "attention", "torch", "transformers", "global batch size")
    }
    for row in group.rows:
        if not (record := row.record):
            continue
        packages = record.environment.get("packages") or {}
        found["dtype"][record.model.dtype].append(row.name)
        found["attention"][record.model.attention].append(row.name)
        for package in ("torch", "transformers"):
            found[package][str(packages.get(package))].append(row.name)
        if record.train:
            found["global batch size"][str(record.train.global_batch_size)].append(row.name)
    return found


def _machine(environment: dict[str, Any]) -> str:
    return repr([environment.get(key) for key in ("host", "device", "cpu", "cores", "threads")])


def _strangers(sources: Sequence[Source], rows: Sequence[Row]) -> Iterator[str]:
    """Finished runs in the folders that their experiment.yaml no longer names."""
    for source in sources:
        named = {row.at.folder.path for row in rows}
        others = [run.id for run in source.folder.runs() if run.path not in named and run.record.is_file()]
        if others:
            yield (
                f"Not in this report: {many(len(others), 'finished run')} in {source.folder.path} that its "
                f"experiment.yaml does not name ({', '.join(others)})."
            )
