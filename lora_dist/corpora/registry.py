"""The built-in datasets by name."""

from __future__ import annotations

import hashlib
import json
from functools import cache

from lora_dist.corpora.general_text import documents
from lora_dist.corpora.word_problems import problems
from lora_dist.errors import DataError

BUILTIN_DATASETS = ("word-problems", "general-text")

Rows = list[dict[str, str]]


def load(name: str) -> dict[str, Rows]:
    """The splits "train" and "test" of the built-in dataset `name`, with or without its prefix `builtin:`.

    `word-problems` has the columns `question` and `answer` (512 and 128 rows); `general-text` has the column
    `text` (1,024 and 128 rows), in the manner of the text that the built-in model was trained on but not of it.

    Raises:
        DataError: no built-in dataset has this name.
    """
    short = name.removeprefix("builtin:")
    if short == "word-problems":
        return {"train": problems("train", 512), "test": problems("test", 128)}
    if short == "general-text":
        return _general_text(train=1024, test=128)
    raise DataError(
        key="data.path",
        problem=f"no built-in dataset is called '{short}'",
        fix="use " + ", ".join(f"builtin:{known}" for known in BUILTIN_DATASETS),
    )


@cache
def fingerprint(name: str) -> str:
    """The sha256 of the dataset's content: equal names with equal fingerprints are equal rows."""
    content = json.dumps(load(name), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _general_text(train: int, test: int) -> dict[str, Rows]:
    seen = set(documents(train, seed=1))  # seed 0 is the built-in model's own training text
    unseen = [text for text in documents(2 * test, seed=2) if text not in seen]
    return {
        "train": [{"text": text} for text in documents(train, seed=1)],
        "test": [{"text": text} for text in unseen[:test]],
    }
