"""The built-in datasets by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache

from lora_dist.corpora.dialogues import dialogues
from lora_dist.corpora.general_text import documents
from lora_dist.corpora.instructions import instructions
from lora_dist.corpora.questions import questions
from lora_dist.corpora.sentiment import sentiment
from lora_dist.corpora.splits import Row
from lora_dist.corpora.symbolic_math import symbolic_math
from lora_dist.corpora.word_problems import problems
from lora_dist.errors import DataError

Rows = list[Row]


def load(name: str) -> dict[str, Rows]:
    """The splits of the built-in dataset `name`, with or without its prefix `builtin:`.

    ```
    name             columns                      rows of train, validation and test
    word-problems    question, answer             512, none, 128
    general-text     text                         1,024, none, 128: in the manner of the built-in model's text
    sentiment        text, label                  1,200, 150, 300
    dialogues        dialogue, summary            800, 100, 200
    instructions     instruction, input, output   1,500, 150, 300
    symbolic-math    question, answer, depth      1,500, 150, 300
    questions        context, question, answer    900, 100, 200
    ```

    Raises:
        DataError: no built-in dataset has this name.
    """
    short = name.removeprefix("builtin:")
    if short not in _MAKERS:
        raise DataError(
            key="data.path",
            problem=f"no built-in dataset is called '{short}'",
            fix="use " + ", ".join(f"builtin:{known}" for known in BUILTIN_DATASETS),
        )
    return _MAKERS[short]()


@cache
def fingerprint(name: str) -> str:
    """The sha256 of the dataset's content: equal names with equal fingerprints are equal rows."""
    content = json.dumps(load(name), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _word_problems() -> dict[str, Rows]:
    return {"train": problems("train", 512), "test": problems("test", 128)}


def _general_text(train: int = 1024, test: int = 128) -> dict[str, Rows]:
    seen = set(documents(train, seed=1))  # seed 0 is the built-in model's own training text
    unseen = [text for text in documents(2 * test, seed=2) if text not in seen]
    return {
        "train": [{"text": text} for text in documents(train, seed=1)],
        "test": [{"text": text} for text in unseen[:test]],
    }


_MAKERS: dict[str, Callable[[], dict[str, Rows]]] = {
    "word-problems": _word_problems,
    "general-text": _general_text,
    "sentiment": sentiment,
    "dialogues": dialogues,
    "instructions": instructions,
    "symbolic-math": symbolic_math,
    "questions": questions,
}
BUILTIN_DATASETS = tuple(_MAKERS)
