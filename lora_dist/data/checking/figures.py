"""How long the rows of a split are, and what cutting them costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lora_dist.data.checking.findings import NAMED, Finding, such_rows
from lora_dist.data.columns import Selection
from lora_dist.data.formats import Example
from lora_dist.data.lengths import Lengths
from lora_dist.data.masks import Encoder, Row, blocks
from lora_dist.data.tokens import NOT_SCORED
from lora_dist.errors import Problem

_BATCH = 1000  # examples per call of the tokenizer


@dataclass(frozen=True)
class SplitFigures:
    """Counts over one split. Lengths are in tokens, before anything is cut."""

    source: str
    """What the source calls the split that the rows come from."""
    held_out: bool
    """Whether they are held out of it, because the source has no split of their own."""
    rows: int
    """Documents, for running text."""
    blocks: int | None
    """Rows that running text is laid out in; None where each row is an example."""
    shortest: int
    median: int
    percentile_95: int
    longest: int
    cut: int
    """Rows longer than max_length. Running text is never cut."""
    cut_scored: int
    """Those of them that lose tokens that the loss would have been on."""
    lost_tokens: int
    """How many such tokens are lost."""
    scored_tokens: int
    """Tokens that the loss is on, after the cut."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """The tokens of one split."""

    encoded: Sequence[Row]
    """Of each row, not cut."""
    made: Sequence[Row]
    """What is trained on and scored: cut at max_length, or laid out in blocks."""
    figures: SplitFigures


def measure(
    task: str,
    selection: Selection,
    examples: Sequence[Example],
    encoder: Encoder,
    lengths: Lengths,
    *,
    held_out: bool,
    heard: Callable[[int, int], None],
) -> Measured:
    """Tokenise a split as training would, and count.

    Args:
        selection, examples: its rows, at least one.
        heard: told how many rows of how many are done.
    """
    is_text = task == "causal_lm"
    encode = encoder.documents if is_text else encoder.rows
    encoded: list[Row] = []
    for start in range(0, len(examples), _BATCH):
        encoded += encode(examples[start : start + _BATCH])
        heard(len(encoded), len(examples))
    if task == "classification":  # the loss is on the label alone, not on an EOS
        encoded = [replace(row, labels=np.full_like(row.labels, NOT_SCORED)) for row in encoded]
    made = blocks(encoded, lengths.block_size) if is_text else [row.cut(lengths.max_length) for row in encoded]
    long = [] if is_text else [row for row in encoded if len(row.ids) > lengths.max_length]
    lost = [len(row.scored_ids) - len(row.cut(lengths.max_length).scored_ids) for row in long]
    shortest, median, percentile_95, longest = np.quantile(
        [len(row.ids) for row in encoded], [0, 0.5, 0.95, 1], method="inverted_cdf"
    ).astype(int)
    figures = SplitFigures(
        source=selection.split,
        held_out=held_out,
        rows=len(encoded),
        blocks=len(made) if is_text else None,
        shortest=int(shortest),
        median=int(median),
        percentile_95=int(percentile_95),
        longest=int(longest),
        cut=len(long),
        cut_scored=sum(count > 0 for count in lost),
        lost_tokens=sum(lost),
        scored_tokens=sum(len(row.scored_ids) for row in made),
    )
    return Measured(encoded, made, figures)


def length_findings(
    part: str, task: str, selection: Selection, measured: Measured, lengths: Lengths
) -> Iterator[Finding]:
    """Rows with nothing to score, and rows that lose some of it.

    Args:
        part: train, validation or test.
    """
    if task == "causal_lm":
        if not measured.made:
            what = f"split '{selection.split}' has fewer than 2 tokens in a part of it, so nothing to score"
            yield Finding("nothing_scored", Problem("data.path", what, "give it more text"), True, 1, part)
        return
    most = lengths.max_length
    scored = {i for i, row in enumerate(measured.encoded) if row.first_scored < len(row.ids)}
    is_labelled = task == "classification"  # the loss is on a label, which nothing cuts
    unscored = [] if is_labelled else [i for i in range(len(measured.encoded)) if i not in scored]
    lost = [i for i in sorted(scored) if measured.encoded[i].is_lost(most)]
    kept = range(len(measured.encoded)) if is_labelled else sorted(scored.difference(lost))
    cut = [i for i in kept if len(measured.encoded[i].ids) > most]
    if unscored:
        what = "has no token that could be scored"
        yield _unscored(part, selection, unscored, "data.path", what, "remove the row, or give it a prompt")
    if lost:
        first = measured.encoded[lost[0]]
        what = (
            f"has {len(first.ids)} tokens, of which the first {first.first_scored} are not scored: cut at {most}, "
            "nothing is left to score"
        )
        fix = _longer(max(len(measured.encoded[index].ids) for index in lost), lengths)
        yield _unscored(part, selection, lost, "data.max_length", what, fix)
    if cut:
        yield _cut(part, selection, measured, cut, lengths)


def _cut(part: str, selection: Selection, measured: Measured, cut: Sequence[int], lengths: Lengths) -> Finding:
    most, context = lengths.max_length, lengths.context
    sizes = [len(measured.encoded[index].ids) for index in cut]
    lost = sum(int(np.sum(measured.encoded[index].labels[most:] != NOT_SCORED)) for index in cut)
    if context is None or max(sizes) <= context:
        fix = f"raise data.max_length to {max(sizes)}"
    elif most < context:
        fix = f"raise data.max_length to {context}, the model's context (the longest row has {max(sizes)})"
    else:
        fix = f"shorten or remove such rows if that matters (the model's context is {context})"
    numbers = [selection.numbers[index] for index in cut]
    what = (
        f"{selection.row(cut[0])} has {sizes[0]} tokens and is cut at {most}{such_rows(numbers)}, "
        f"scored tokens lost: {lost:,}"
    )
    problem = Problem("data.max_length", what, fix)
    return Finding("cut", problem, False, len(cut), part, tuple(numbers[:NAMED]))


def _longer(needed: int, lengths: Lengths) -> str:
    if lengths.context is None or needed <= lengths.context:
        return f"raise data.max_length to {needed}, or remove the row"
    return f"remove or shorten the row (the longest has {needed} tokens, the model's context is {lengths.context})"


def _unscored(part: str, selection: Selection, which: Sequence[int], key: str, what: str, fix: str) -> Finding:
    numbers = [selection.numbers[index] for index in which]
    problem = Problem(key, f"{selection.row(which[0])} {what}{such_rows(numbers)}", fix)
    return Finding("nothing_scored", problem, True, len(numbers), part, tuple(numbers[:NAMED]))
