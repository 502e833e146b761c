"""Holding examples out of train, the same ones every time, wherever the rows come from and however they are ordered."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping

from lora_dist.config.sections import SPLITS, DataSection
from lora_dist.data.columns import Selection
from lora_dist.errors import DataError

MOST_HELD_OUT = 1000
"""Rows (lines of a single document) that a carved split has at most."""


def complete_splits(there: Mapping[str, Selection], section: DataSection) -> dict[str, Selection]:
    """train, validation and test: those that are not there are held out of train, then all are limited in length.

    Raises:
        DataError: train has too few rows to hold any out.
    """
    splits = dict(there)
    missing = [part for part in ("test", "validation") if part not in splits]
    if missing:
        one_document = section.task == "causal_lm" and len(splits["train"]) == len(splits["train"].values[0]) == 1
        carve = _carve_lines if one_document else _carve_rows
        splits |= carve(splits["train"], missing, section.held_out_fraction)
    limits = {"train": section.max_train_examples}
    return {part: _first(splits[part], limits.get(part, section.max_eval_examples)) for part in SPLITS}


def _first(selection: Selection, most: int | None) -> Selection:
    return selection if most is None or most >= len(selection) else selection.only(range(most))


def _carve_rows(train: Selection, missing: list[str], fraction: float) -> dict[str, Selection]:
    """Rows in the order of their content's sha256; the first go to each missing split. Equal rows stay together."""
    groups: dict[str, list[int]] = {}
    for index in range(len(train)):
        groups.setdefault(_content_hash(train, index), []).append(index)
    waiting = [groups[key] for key in sorted(groups)]
    wanted = _held_out(len(train), fraction)
    carved: dict[str, list[int]] = {}
    for part in missing:
        carved[part], waiting = _take(waiting, wanted)
    if not waiting or not all(carved.values()):
        raise _too_few(train, missing, f"{len(groups)} different rows" if len(groups) != len(train) else "")
    rest = {index for group in waiting for index in group}
    parts = carved | {"train": list(rest)}
    return {part: train.only(sorted(indices)) for part, indices in parts.items()}


def _take(groups: list[list[int]], wanted: int) -> tuple[list[int], list[list[int]]]:
    """The first groups that fit into `wanted` rows (the smallest one when none does), and the groups that are left."""
    taken: list[int] = []
    left = []
    for group in groups:
        if len(taken) + len(group) <= wanted:
            taken += group
        else:
            left.append(group)
    if not taken and left:
        taken = left.pop(left.index(min(left, key=len)))
    return taken, left


def _held_out(count: int, fraction: float) -> int:
    return min(MOST_HELD_OUT, max(1, round(count * fraction)))


def _content_hash(selection: Selection, index: int) -> str:
    content = json.dumps(selection.values[index], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _carve_lines(train: Selection, missing: list[str], fraction: float) -> dict[str, Selection]:
    """Whole lines from the end of a single document: running text stays in one piece on both sides."""
    ((text,),) = train.values
    lines = list(io.StringIO(text, newline="\n"))
    wanted = fraction * len(text)
    parts: dict[str, str] = {}
    for part in missing:
        size, first = 0, len(lines)
        while first and len(lines) - first < MOST_HELD_OUT and (size < wanted or not lines[first].strip()):
            first -= 1
            size += len(lines[first])
        parts[part] = "".join(lines[first:])
        del lines[first:]
    parts["train"] = "".join(lines)
    if not all(part.strip() for part in parts.values()):
        raise _too_few(train, missing, "one document of too few lines")
    return {part: Selection(train.split, [(text,)], train.numbers) for part, text in parts.items()}


def _too_few(train: Selection, missing: list[str], have: str) -> DataError:
    rows = "1 row" if len(train) == 1 else f"{len(train)} rows"
    key = "data.eval_split" if "test" in missing else "data.validation_split"
    return DataError(
        key=key,
        problem=f"split '{train.split}' has {have or rows}: too few to hold out {' and '.join(missing)}",
        fix="add rows, or give these splits files of their own (data.path: {train: ..., validation: ..., test: ...})",
    )
