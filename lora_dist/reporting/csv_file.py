"""results.csv: one row per run with full-precision numbers, under column names that stay."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from lora_dist.config.sections import SPLITS
from lora_dist.reporting.measures import JUDGED, MACRO_F1
from lora_dist.reporting.merging import FORM_COLUMNS, FormRow
from lora_dist.reporting.rows import QUALITY_SPLIT, Row, Versus
from lora_dist.reporting.words import one_line

Getter = Callable[[Row], Any]
_FORMULA_SIGNS = "=+-@\t\r"  # a spreadsheet would run a text that begins with one of these


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header; a number that was not measured is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(getter(row)) for getter in COLUMNS.values()])
    return buffer.getvalue()


def forms_csv(found: Sequence[FormRow]) -> str:
    """A line for each form of an adapter and its base, before and after merging."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FORM_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.values().items()} for row in found)
    return buffer.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in _FORMULA_SIGNS and text else text


def _train(name: str) -> Getter:
    return lambda row: getattr(row.record.train, name) if row.record and row.record.train else None


def _validation(name: str) -> Getter:
    def getter(row: Row) -> Any:
        part = row.record.train.validation if row.record and row.record.train else None
        return getattr(part, name) if part else None

    return getter


def _model(name: str) -> Getter:
    return lambda row: getattr(row.record.model, name) if row.record else None


def _setting(name: str) -> Getter:
    return lambda row: row.settings.get(name)


def _prune(name: str) -> Getter:
    return lambda row: getattr(row.record.prune, name) if row.record and row.record.prune else None


def _split_columns(split: str) -> dict[str, Getter]:
    plain = {metric: _measured(split, metric) for metric in ("nll_sum", "scored_tokens", "bits_per_byte")}
    return _bound_columns(split, "perplexity") | {f"{split}_{metric}": getter for metric, getter in plain.items()}


def _class_columns(split: str) -> dict[str, Getter]:
    columns = {f"{split}_{metric}": _measured(split, metric) for metric in ("loss", "majority_accuracy")}
    for metric in ("accuracy", "f1_macro", "f1_weighted"):
        columns |= _bound_columns(split, metric)
    return columns


def _bound_columns(split: str, metric: str) -> dict[str, Getter]:
    """A metric and the ends of its interval."""

    def bound(which: str) -> Getter:
        return lambda row: getattr(estimate, which) if (estimate := row.estimate(split, metric)) else None

    name = f"{split}_{metric}"
    return {name: bound("value"), f"{name}_low": bound("low"), f"{name}_high": bound("high")}


def _also_versus_columns(metric: str) -> dict[str, Getter]:
    columns: dict[str, Getter] = {}
    for name in ("base", "full"):
        versus = _versus_columns(name, lambda row, name=name: row.judged_versus(name).get(metric))
        columns |= {key.replace("versus", f"{metric}_versus"): getter for key, getter in versus.items()}
    return columns


def _measured(split: str, metric: str) -> Getter:
    return lambda row: row.measured(split, metric)


def _versus_columns(name: str, versus: Callable[[Row], Versus | None]) -> dict[str, Getter]:
    def part(which: str) -> Getter:
        return lambda row: getattr(found, which) if (found := versus(row)) else None

    return {
        f"versus_{name}": part("value"),
        f"versus_{name}_low": part("low"),
        f"versus_{name}_high": part("high"),
        f"versus_{name}_verdict": part("verdict"),
        f"versus_{name}_reference": part("reference"),
    }


def _columns() -> dict[str, Getter]:
    columns: dict[str, Getter] = {
        "experiment": lambda row: row.experiment,
        "run": lambda row: row.run.id,
        "arm": lambda row: row.run.arm,
        "name": lambda row: row.name,
        "label": lambda row: one_line(row.run.label),
        "state": lambda row: row.at.state,
        "method": lambda row: row.kind,
        "rank": _setting("rank"),
        "alpha": _setting("alpha"),
        "learning_rate": lambda row: row.learning_rate,
        "seed": lambda row: row.seed,
        "virtual_tokens": _setting("virtual_tokens"),
        "model": lambda row: row.run.model.path,
        "dtype": _model("dtype"),
        "quantization": lambda row: q.kind if row.record and (q := row.record.model.quantization) else None,
        "token_hash": lambda row: row.token_hash or None,
        "parameters_total": _model("parameters_total"),
        "parameters_trainable": _model("parameters_trainable"),
        "trainable_share": lambda row: row.trainable_share,
    }
    for name in (
        "steps", "epochs", "tokens", "scored_tokens", "final_loss", "seconds", "seconds_per_epoch",
        "tokens_per_second", "peak_memory_bytes", "peak_memory_kind", "world_size", "global_batch_size", "zero_stage",
    ):  # fmt: skip
        columns[f"training_{name}"] = _train(name)  # train_ is the split of that name
    for name in ("best_step", "best_loss", "last_loss", "steps_planned", "keeps_best"):
        columns[f"early_stopping_{name}"] = _validation(name)
    for name in (
        "kind", "sparsity", "pattern", "mode", "is_approximate", "measured_sparsity", "mean_squared_error", "seconds",
        "peak_memory_bytes", "world_size",
    ):  # fmt: skip
        columns[f"prune_{name}"] = _prune(name)
    columns["generated_tokens_per_second"] = lambda row: (
        row.record.generation.tokens_per_second if row.record and row.record.generation else None
    )
    for split in SPLITS:
        columns |= _split_columns(split)
    for metric in JUDGED:
        columns |= _bound_columns(QUALITY_SPLIT, metric.name) | _also_versus_columns(metric.name)
    columns |= _versus_columns("base", lambda row: row.versus_base)
    columns |= _versus_columns("full", lambda row: row.versus_full)
    for split in SPLITS:
        columns |= _class_columns(split)
    columns |= _also_versus_columns(MACRO_F1.name)
    columns["device_seconds"] = lambda row: row.record.device_seconds if row.record else None
    columns["attempts"] = lambda row: row.record.attempts if row.record else row.at.attempts
    columns["reason"] = lambda row: one_line(row.at.reason, limit=1000) or None
    columns["log"] = lambda row: str(row.at.log) if row.at.log else None
    return columns


COLUMNS = _columns()
"""Column name to the value of a row, in the file's order."""
