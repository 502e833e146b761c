"""Rows that occur twice within a split, and rows of one split that another one has too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_dist.data.checking.findings import NAMED, Finding, Kind
from lora_dist.data.checking.overlap import SIMILAR, WORDS, Pair, matches, near_duplicates, normalised, repeats
from lora_dist.data.checking.overlap import shingles as shingles_of
from lora_dist.data.columns import Selection
from lora_dist.data.formats import Example
from lora_dist.errors import Problem

COMPARED = (("test", "train"), ("validation", "train"), ("test", "validation"))
_OFTEN = 1000  # rows from one word of progress to the next
_SHORT_LINE = 8
"""Words. Shorter lines of a document, such as headings, may well occur twice."""


@dataclass(frozen=True)
class Compared:
    """What one split is compared by."""

    noun: str
    """row; or line, where the split is a single document."""
    numbers: Sequence[int]
    """What the source calls each, from 1."""
    keys: Sequence[tuple[str, ...]]
    """The texts of each row, without differences of case and whitespace."""
    prompts: Sequence[str] | None
    """What stands before the last turn that is scored; None where there is nothing of the kind."""


def compared(task: str, selection: Selection, examples: Sequence[Example]) -> Compared:
    """What a split is compared by."""
    if task == "causal_lm":
        if len(selection) == 1:
            lines = ((number, normalised(line)) for number, line in enumerate(examples[0].text.split("\n"), start=1))
            told = [(number, (line,)) for number, line in lines if len(line.split()) >= _SHORT_LINE]
            return Compared("line", [number for number, _ in told], [key for _, key in told], None)
        return Compared("row", selection.numbers, [tuple(_texts(values)) for values in selection.values], None)
    prompts = [normalised(_prompt(example)) for example in examples]
    keys = [tuple(_texts(values)) for values in selection.values]
    return Compared("row", selection.numbers, keys, prompts if len(set(prompts)) > 1 or len(prompts) == 1 else None)


def _prompt(example: Example) -> str:
    return example.text[: example.spans[-1][0]] if example.spans else example.text


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, normalised; of conversations what is said."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            if name != "role":
                yield from _texts(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _texts(below)
    else:
        yield normalised(str(value))


def repeated(part: str, split: Compared) -> Iterator[Finding]:
    """Rows that one split has several times, and prompts that it has with different completions."""
    if split.noun == "line":  # running text says things twice
        return
    pairs = repeats(split.keys)
    yield from _within(
        "repeated_row", part, split, pairs, "that repeat an earlier one, case and spaces aside", "remove them"
    )
    if split.prompts is not None:
        same = {pair.left for pair in pairs}
        pairs = [pair for pair in repeats(split.prompts) if pair.left not in same]
        what = "that have the prompt of an earlier one and another completion"
        yield from _within(
            "repeated_prompt", part, split, pairs, what, "keep one, unless several are meant to be right"
        )


def _within(kind: Kind, part: str, split: Compared, pairs: Sequence[Pair], what: str, fix: str) -> Iterator[Finding]:
    if pairs:
        yield _finding(kind, part, part, split, split, pairs, what, fix)


def leaked(splits: Mapping[str, Compared], heard: Callable[[int, int, str], None]) -> Iterator[Finding]:
    """Rows of test and validation that train has (and of test that validation has), or nearly, or whose prompt it has.

    Args:
        splits: train, validation and test, as far as they are there.
        heard: told now and then how many rows of how many have been compared, and which.
    """
    shingles = {part: list(_shingled(part, split, heard)) for part, split in splits.items()}
    for part, other in COMPARED:
        if part in splits and other in splits:
            names = f"{part} with {other}"
            yield from _leaked(part, other, splits, shingles, lambda done, of, names=names: heard(done, of, names))


def _shingled(part: str, split: Compared, heard: Callable[[int, int, str], None]) -> Iterator[np.ndarray]:
    for number, key in enumerate(split.keys):
        if number % _OFTEN == 0:
            heard(number, len(split.keys), f"words of {part}")
        yield shingles_of(" ".join(key))


def _leaked(
    part: str,
    other: str,
    splits: Mapping[str, Compared],
    shingles: Mapping[str, Sequence[np.ndarray]],
    heard: Callable[[int, int], None],
) -> Iterator[Finding]:
    here, there = splits[part], splits[other]
    equal = matches(here.keys, there.keys)
    known = {pair.left for pair in equal}
    kinds: list[tuple[Kind, list[Pair], str]] = [("leaked_row", equal, f"that {other} has too, case and spaces aside")]
    if here.prompts is not None and there.prompts is not None:
        asked = [pair for pair in matches(here.prompts, there.prompts) if pair.left not in known]
        known |= {pair.left for pair in asked}
        kinds.append(("leaked_prompt", asked, f"whose prompt a {there.noun} of {other} has"))
    rest = [index for index in range(len(here.keys)) if index not in known]
    found = near_duplicates([shingles[part][i] for i in rest], shingles[other], lambda done: heard(done, len(rest)))
    near = [Pair(rest[pair.left], pair.right) for pair in found]
    measure = f"Jaccard similarity of their runs of {WORDS} words at least {SIMILAR}"
    kinds.append(("near_duplicate", near, f"that are nearly {there.noun}s of {other} ({measure})"))
    for kind, pairs, what in kinds:
        if pairs:
            yield _finding(kind, part, other, here, there, pairs, what, "remove them from one of the two")


def _finding(
    kind: Kind,
    part: str,
    other: str,
    here: Compared,
    there: Compared,
    pairs: Sequence[Pair],
    what: str,
    fix: str,
) -> Finding:
    first = pairs[:NAMED]
    named = [
        f"{here.noun} {here.numbers[pair.left]} like {there.noun} {there.numbers[pair.right]}" for pair in first
    ] + (["..."] if len(pairs) > NAMED else [])
    count = f"{len(pairs):,} of {len(here.keys):,} ({', '.join(named)})"
    return Finding(
        kind,
        Problem("data.path", f"{here.noun}s of {part} {what}: {count}", fix),
        False,
        len(pairs),
        part,
        tuple(here.numbers[pair.left] for pair in first),
        other,
        tuple(there.numbers[pair.right] for pair in first),
    )
