"""What all built-in datasets with three splits promise: sizes, columns, no row twice, rows of a readable length."""

from __future__ import annotations

import re

import pytest

from lora_dist.corpora.dialogues import dialogues
from lora_dist.corpora.general_text import documents
from lora_dist.corpora.registry import load
from lora_dist.corpora.sentiment import sentiment
from lora_dist.models.pretraining import Recipe, train_tokenizer

LONGEST = 250  # tokens of the built-in model; its context is 1024, recipes and quick tests cut at 256

ROWS = {"sentiment": (1200, 150, 300), "dialogues": (800, 100, 200)}
COLUMNS = {"sentiment": {"text": str, "label": str}, "dialogues": {"dialogue": str, "summary": str}}
ASKED = {"sentiment": ("text",), "dialogues": ("dialogue",)}
MAKERS = {"sentiment": sentiment, "dialogues": dialogues}

each_dataset = pytest.mark.parametrize("name", ROWS)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(Recipe(), documents(Recipe().documents, Recipe().seed))


def all_rows(name):
    return [row for rows in load(name).values() for row in rows]


@each_dataset
def test_sizes_and_columns_are_those_that_the_registry_tells(name):
    assert tuple(len(rows) for rows in load(name).values()) == ROWS[name]
    assert list(load(name)) == ["train", "validation", "test"]
    assert all({column: type(value) for column, value in row.items()} == COLUMNS[name] for row in all_rows(name))
    rows = ", ".join(f"{count:,}" for count in ROWS[name])
    assert re.search(rf"\n +{name} +{', '.join(COLUMNS[name])} +{rows}", load.__doc__)


@each_dataset
def test_nothing_is_asked_twice_within_a_split_or_across_splits(name):
    asked = [tuple(row[column] for column in ASKED[name]) for row in all_rows(name)]
    assert len(set(asked)) == len(asked) == sum(ROWS[name])


@each_dataset
def test_a_smaller_split_is_the_beginning_of_a_larger_one_and_the_splits_stay_apart(name):
    small = MAKERS[name]({"train": 40, "validation": 30, "test": 200})
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
