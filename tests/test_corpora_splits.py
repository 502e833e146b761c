"""What all built-in datasets with three splits promise: sizes, columns, no row twice, rows of a readable length."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pytest

from lora_dist.config.sections import DataSection
from lora_dist.corpora.dialogues import dialogues
from lora_dist.corpora.general_text import documents
from lora_dist.corpora.instructions import instructions
from lora_dist.corpora.questions import questions
from lora_dist.corpora.registry import load
from lora_dist.corpora.sentiment import sentiment
from lora_dist.corpora.symbolic_math import symbolic_math
from lora_dist.data.sources import load_splits
from lora_dist.models.pretraining import Recipe, train_tokenizer

SPLITS = ("train", "validation", "test")
LONGEST = 240  # tokens of the built-in model: recipes cut at 256, and a template has words too


class Expected(NamedTuple):
    make: Callable[[dict[str, int]], dict[str, list[dict]]]
    rows: tuple[int, int, int]
    columns: dict[str, type]
    asked: tuple[str, ...]


DATASETS = {
    "sentiment": Expected(sentiment, (1200, 150, 300), {"text": str, "label": str}, ("text",)),
    "dialogues": Expected(dialogues, (800, 100, 200), {"dialogue": str, "summary": str}, ("dialogue",)),
    "instructions": Expected(
        instructions, (1500, 150, 300), {"instruction": str, "input": str, "output": str}, ("instruction", "input")
    ),
    "symbolic-math": Expected(
        symbolic_math, (1500, 150, 300), {"question": str, "answer": str, "depth": int}, ("question",)
    ),
    "questions": Expected(questions, (900, 100, 200), {"context": str, "question": str, "answer": str}, ("context",)),
}

each_dataset = pytest.mark.parametrize("name", DATASETS)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Recipe(), documents(Recipe().documents, Recipe().seed))


def all_rows(name):
    return [row for rows in load(name).values() for row in rows]


@each_dataset
def test_sizes_and_columns_are_those_that_the_registry_tells(name):
    _, sizes, columns, _ = DATASETS[name]
    splits = load(name)
    assert {split: len(rows) for split, rows in splits.items()} == dict(zip(SPLITS, sizes, strict=True))
    assert all({key: type(value) for key, value in row.items()} == columns for row in all_rows(name))
    told = ", ".join(f"{count:,}" for count in sizes)
    assert re.search(rf"\n +{name} +{', '.join(columns)} +{told}", load.__doc__)


@each_dataset
def test_the_data_room_finds_all_three_splits(name):
    found = load_splits(DataSection(task="instruction", path=f"builtin:{name}"))
    columns = DATASETS[name].columns
    for split, rows in load(name).items():
        assert [found[split].column(key) for key in columns] == [[row[key] for row in rows] for key in columns]


@each_dataset
def test_nothing_is_asked_twice_within_a_split_or_across_splits(name):
    asked = [tuple(row[column] for column in DATASETS[name].asked) for row in all_rows(name)]
    assert len(set(asked)) == len(asked) == sum(DATASETS[name].rows)


@each_dataset
def test_a_smaller_split_is_the_beginning_of_a_larger_one_and_the_splits_stay_apart(name):
    small = DATASETS[name].make({"train": 40, "validation": 30, "test": 200})
    large = load(name)
    for split, rows in small.items():
        assert rows == large[split][: len(rows)]


@each_dataset
def test_an_example_is_short_enough_for_the_builtin_model(name, tokenizer):
    texts = ["\n".join(str(value) for value in row.values()) for row in all_rows(name)]
    longest = max(texts, key=lambda text: len(tokenizer(text)["input_ids"]))
    assert len(tokenizer(longest)["input_ids"]) < LONGEST, longest


@each_dataset
def test_the_texts_are_cleanly_put_together(name):
    for row in all_rows(name):
        for column, value in row.items():
            text = str(value)
            assert text or column == "input"
            assert text.isascii()
            assert text == text.strip()
            assert not re.search(r"[{}]|  | [.,;?!]|\.\.(?!\.)|,\.|\b(a a|the the|an an)\b", text), text
