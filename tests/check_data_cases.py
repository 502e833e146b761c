"""Small splits of clean data, and checking them, for the tests of check-data."""

from __future__ import annotations

import json

from test_data_tokenizers import bpe, section

from lora_dist.data.checking.check import DataCheck, check_section
from lora_dist.data.tokenise import tokenise
from lora_dist.errors import UserError

PLAIN = bpe()


def quiet(*_):
    """Progress that nobody looks at."""


def row(number):
    return {"prompt": f"What is {number} and {number}?", "completion": f"{number} and {number} is {2 * number}."}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def clean():
    """Splits without a fault."""
    parts = {"train": range(30), "validation": range(30, 36), "test": range(40, 50)}
    return {part: [row(number) for number in numbers] for part, numbers in parts.items()}


def broken(splits, part, number, **values):
    """Put values into one row, counted from 1."""
    splits[part][number - 1] = {**splits[part][number - 1], **values}


def check(folder, splits, *, tokenizer=PLAIN, context=256, **settings) -> DataCheck:
    """Check splits that are given as lists of rows; training has to agree on what is told."""
    told = section({part: write(folder / f"{part}.jsonl", rows) for part, rows in splits.items()}, **settings)
    found = check_section(told, tokenizer, context, quiet)
    try:
        facts = tokenise(told, tokenizer, context).facts
    except UserError:
        assert found.problems
    else:
        assert not found.problems
        agree(found.splits, facts.splits)
    return found


def agree(figures, facts):
    """What is told is what training has."""
    assert figures.keys() == facts.keys()
    for part, told in figures.items():
        assert (told.blocks or told.rows) == facts[part].rows
        assert (told.scored_tokens, told.cut) == (facts[part].scored_tokens, facts[part].truncated)
        if told.blocks is None and not told.cut:
            assert told.longest == facts[part].longest


def kinds(found):
    return {finding.kind: finding for finding in found.findings}
