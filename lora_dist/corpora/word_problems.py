"""The dataset `word-problems`: arithmetic word problems with worked solutions that end in `#### result`."""

from __future__ import annotations

import zlib

from lora_dist.corpora.dice import Dice
from lora_dist.corpora.problem_kinds import KINDS

_SEEDS = {"train": 11, "test": 12}
_HELD_OUT_EVERY = 7  # of the pairs (kind, subject); the test split alone has them
_TEST_EVERY = 6  # of the other questions, so that about half of the test split is about pairs seen in training


def problems(split: str, count: int) -> list[dict[str, str]]:
    """The first `count` rows of `split` ("train" or "test"), each with `question` and `answer`.

    To which split a question belongs follows from the question alone, so the splits share no question
    whatever their sizes; no question comes twice within a split either.
    """
    dice = Dice(_SEEDS[split])
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        kind = dice.number(0, len(KINDS) - 1)
        subject = dice.number(0, len(KINDS[kind].subjects) - 1)
        question, lines, result = KINDS[kind].write(dice, KINDS[kind].subjects[subject])
        if (split == "test") == _is_for_test(kind, subject, question):
            answer = "\n".join((*lines, f"#### {result}"))
            rows.setdefault(question, {"question": question, "answer": answer})
    return list(rows.values())


def _is_for_test(kind: int, subject: int, question: str) -> bool:
    held_out = (kind + subject) % _HELD_OUT_EVERY == 0
    return held_out or zlib.crc32(question.encode()) % _TEST_EVERY == 0
