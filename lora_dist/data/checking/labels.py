"""Which column holds labels, and what is odd about them."""

from __future__ import annotations

from collections.abc import Iterator

from lora_dist.config.sections import DataSection
from lora_dist.data.checking.findings import Finding
from lora_dist.data.checking.label_balance import LabelBalance, label_balance, look_like_labels
from lora_dist.data.checking.source import Source
from lora_dist.data.tasks import columns_by_role
from lora_dist.errors import Problem

_NAMED = 5
"""How many labels are named."""


def find_labels(section: DataSection, source: Source) -> tuple[str, LabelBalance] | None:
    """The column of labels and its balance: the one that is said to be, or completions that are few different texts."""
    train = source.rows.get("train")
    roles = columns_by_role(section, train.columns if train is not None else ())
    column = roles["label"] if section.task == "classification" else dict(section.columns).get("label")
    guessed = column is None
    column = column or roles["completion"]
    found = {part: values for part in source.selections if (values := source.values(part, column)) is not None}
    if section.task == "causal_lm" or not found.get("train"):
        return None
    if guessed and not look_like_labels([str(value) for value in found["train"]]):
        return None
    return column, label_balance(found)


def label_findings(labels: tuple[str, LabelBalance] | None, *, stop: bool) -> Iterator[Finding]:
    """What looks odd about labels: some that train lacks, one in several spellings, one only.

    Args:
        stop: whether a label that train lacks, and one only, stop training (a classification refuses them).
    """
    if labels is None:
        return
    column, balance = labels
    for part in balance.counts:
        unseen = balance.unseen(part)
        if part != "train" and unseen:
            rows = sum(balance.counts[part][label] for label in unseen)
            what = f"{part} has labels in column '{column}' that train lacks: {_quoted(unseen)} ({rows:,} rows)"
            yield _of_labels(what, "correct them, or add rows of them to train", rows, part, stop)
    for spellings in balance.spellings:
        rows = sum(counts[label] for counts in balance.counts.values() for label in spellings)
        what = f"column '{column}' has one label in several spellings: {_quoted(spellings)}"
        yield _of_labels(what, "write it in one way", rows, None)
    if len([label for label in balance.labels if balance.counts["train"][label]]) == 1:
        what = f"all rows of train have the same label in column '{column}': {_quoted(balance.labels[:1])}"
        yield _of_labels(what, "add rows with others", sum(balance.counts["train"].values()), "train", stop)


def _of_labels(what: str, fix: str, rows: int, part: str | None, stop: bool = False) -> Finding:
    return Finding("labels", Problem("data.path", what, fix), stop, rows, part)


def _quoted(labels: list[str]) -> str:
    shown = ", ".join(f"'{label}'" for label in labels[:_NAMED])
    return shown + (", ..." if len(labels) > _NAMED else "")
