"""Labels: what they are called, in which order, and what is refused about them; and how a text becomes a row."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from classification_cases import LABELS, sentences, tiny_tokenizer, write_rows

from lora_dist.config.sections import DataSection
from lora_dist.data.tokenise import tokenise
from lora_dist.data.tokens import find_token_set
from lora_dist.errors import UserError

TEXTS = ["the film was good", "a bad book", "so plain", "it was fine today"]


def made(folder: Path, train, test=None, validation=None, **settings):
    splits = {"train": train, "test": test or train, "validation": validation or train}
    path = {split: str(write_rows(folder / f"{split}.jsonl", rows)) for split, rows in splits.items()}
    return tokenise(DataSection(task="classification", path=path, **settings), tiny_tokenizer(), 24)


def rows_with(labels, column="label"):
    return [{"text": TEXTS[i % len(TEXTS)], column: label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([10, 2, 9], ("2", "9", "10")),
        (["10", "9", "2"], ("2", "9", "10")),
        ([1, -1, 0], ("-1", "0", "1")),
        ([True, False], ("false", "true")),
        ([1.0, 0.0], ("0", "1")),
        (["no", "10"], ("10", "no")),
    ],
)
def test_labels_are_in_the_order_of_numbers_or_of_the_alphabet(tmp_path, given, names):
    data = made(tmp_path, rows_with(given))
    assert data.facts.labels == names
    classes = [int(labels[0]) for _, labels in data.rows("train")]
    shown = [str(label).lower() if isinstance(label, bool) else str(label).removesuffix(".0") for label in given]
    assert [names[c] for c in classes] == shown
    assert data.facts.splits["train"].label_counts == tuple(shown.count(name) for name in names)


def test_class_numbers_are_called_as_their_dataset_calls_them_in_its_order(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["zoo", "air"])})
    rows = {"text": TEXTS, "label": [0, 1, 1, 0]}
    path = {}
    for split in ("train", "validation", "test"):
        path[split] = str(tmp_path / f"{split}.parquet")
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path[split])
    data = tokenise(DataSection(task="classification", path=path), tiny_tokenizer(), 24)
    assert data.facts.labels == ("zoo", "air")
    assert [int(labels[0]) for _, labels in data.rows("test")] == [0, 1, 1, 0]
    saved = tmp_path / "saved"
    datasets.DatasetDict({split: datasets.Dataset.from_dict(rows, features=features) for split in path}).save_to_disk(
        saved
    )
    again = tokenise(DataSection(task="classification", path=str(saved)), tiny_tokenizer(), 24)
    assert again.facts.token_hash == data.facts.token_hash


@pytest.mark.parametrize(
    ("rows", "more", "line"),
    [
        (rows_with(["a", "b"]), {"test": rows_with(["a", "c", "c"])},
         "data.columns.label: test has labels that train lacks: 'c', in row 2 of split 'test' (and 1 more row); train "
         "has 'a', 'b'"),
        (rows_with(["a", "a"]), {}, "data.columns.label: train has one label only ('a' in column 'label')"),
        (rows_with(["a", None, None]), {},
         "data.columns.label: row 2 of split 'train' has null in column 'label' (and 1 more row)"),
        (rows_with(["a", " "]), {}, "data.columns.label: row 2 of split 'train' has an empty label in column 'label'"),
        (rows_with([0.5, 1]), {}, "data.columns.label: row 1 of split 'train' has 0.5, which is no class,"),
        (rows_with([["a"], "b"]), {}, "data.columns.label: row 1 of split 'train' has a list instead of a label"),
        ([{"text": " ", "label": 0}, *rows_with([0, 1])], {},
         "data.columns.text: row 1 of split 'train' has an empty text in column 'text'"),
        ([{"text": None, "label": 0}, *rows_with([0, 1])], {},
         "data.columns.text: row 1 of split 'train' has null in column 'text'"),
        ([{"body": "so", "label": 0}], {}, "data.columns.text: split 'train' has no column 'text'"),
        ([{"text": "so", "kind": 0}], {}, "data.columns.label: split 'train' has no column 'label'"),
        (rows_with([0, 1]), {"columns": {"text": "label"}},
         "data.columns: text and label are the same column; name two columns"),
        (rows_with([0, 1]), {"max_length": 2}, "data.max_length: 2 tokens leave no room for a text"),
    ],
)  # fmt: skip
def test_labels_and_texts_that_cannot_be_used_are_refused_in_one_line(tmp_path, rows, more, line):
    with pytest.raises(UserError) as caught:
        made(tmp_path, rows, **({"test": rows_with([0, 1])} if "columns" in more else {}), **more)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_number_that_is_none_of_the_declared_classes_is_refused(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    unlabelled = datasets.Dataset.from_dict({"text": ["so", "it"], "label": [0, -1]}, features=features)
    unlabelled.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match="row 2 of split 'train' has -1, which is none of its 2 classes"):
        tokenise(DataSection(task="classification", path=str(tmp_path / "train.parquet")), tiny_tokenizer(), 24)


def test_usual_column_names_are_found_and_a_template_joins_columns(tmp_path):
    rows = [{"sentence": "so good", "sentiment": "p"}, {"sentence": "so bad", "sentiment": "n"}]
    data = made(tmp_path, rows)
    assert tiny_tokenizer().decode(data.rows("train")[0][0]) == "[CLS] so good [SEP]"
    two = [{"sentence": "so", "more": "good", "sentiment": "p"}, {"sentence": "so", "more": "bad", "sentiment": "n"}]
    joined = made(tmp_path, two, template="{text} {more}")
    assert joined.facts.token_hash == data.facts.token_hash
    named = made(
        tmp_path, [{"a": row["sentence"], "b": row["sentiment"]} for row in rows], columns={"text": "a", "label": "b"}
    )
    assert named.facts.token_hash == data.facts.token_hash


def test_a_long_row_is_cut_and_keeps_its_special_tokens(tmp_path):
    rows = [{"text": "so good " * 8, "label": 1}, {"text": "so bad", "label": 0}]
    data = made(tmp_path, rows, max_length=6)
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(data.rows("train")[0][0]) == "[CLS] so good so good [SEP]"
    facts = data.facts.splits["train"]
    assert (facts.truncated, facts.longest, facts.rows, facts.scored_tokens) == (1, 6, 2, 2)


def test_the_hash_covers_labels_and_what_they_are_called(tmp_path):
    rows = sentences(30, 0)
    other = [row | {"label": {"neutral": "mixed"}.get(row["label"], row["label"])} for row in rows]
    flipped = [rows[0] | {"label": next(label for label in LABELS if label != rows[0]["label"])}, *rows[1:]]
    hashes = {made(tmp_path, given).facts.token_hash for given in (rows, other, flipped)}
    assert len(hashes) == 3
    assert made(tmp_path, rows).facts.token_hash in hashes


def test_saved_tokens_are_found_with_their_labels(tmp_path):
    data = made(tmp_path, rows_with(["b", "a", "b"]))
    data.save(tmp_path / "tokens")
    found = find_token_set(tmp_path / "tokens", data.facts.source_key)
    assert found.facts == data.facts
    for (ids, labels), (mine, own) in zip(found.rows("train"), data.rows("train"), strict=True):
        assert np.array_equal(ids, mine)
        assert np.array_equal(labels, own)


def test_held_out_rows_have_the_labels_of_train(tmp_path):
    path = write_rows(tmp_path / "all.jsonl", sentences(100, 3))
    data = tokenise(DataSection(task="classification", path=str(path)), tiny_tokenizer(), 24)
    assert data.facts.labels == tuple(LABELS)
    assert [data.facts.splits[part].rows for part in ("train", "validation", "test")] == [80, 10, 10]
    texts = {json.loads(line)["text"] for line in path.read_text().splitlines()}
    decoded = {tiny_tokenizer().decode(ids, skip_special_tokens=True) for ids, _ in data.rows("test")}
    assert decoded <= texts
