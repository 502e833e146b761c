import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_tokenizers import bpe, section

from lora_dist.data.columns import Selection
from lora_dist.data.splits import MOST_HELD_OUT, complete_splits
from lora_dist.data.tokenise import tokenise
from lora_dist.errors import DataError


def selection(texts, split="train"):
    return Selection(split, [(text,) for text in texts], range(1, len(texts) + 1))


def texts_of(part):
    return [values[0] for values in part.values]


def instruction(**settings):
    return section("builtin:word-problems", **settings)


ROWS = st.lists(st.sampled_from([f"row {i}" for i in range(40)]), min_size=12, max_size=120)


@given(ROWS.filter(lambda rows: len(set(rows)) > 8), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_the_same_rows_are_held_out_in_any_order_and_equal_rows_stay_together(rows, dice):
    parts = complete_splits({"train": selection(rows)}, instruction())
    shuffled = dice.sample(rows, len(rows))
    again = complete_splits({"train": selection(shuffled)}, instruction())
    for name, part in parts.items():
        assert sorted(texts_of(part)) == sorted(texts_of(again[name]))
    contents = {name: set(texts_of(part)) for name, part in parts.items()}
    assert not contents["train"] & contents["test"]
    assert not contents["train"] & contents["validation"]
    assert not contents["test"] & contents["validation"]
    assert sorted(text for part in parts.values() for text in texts_of(part)) == sorted(rows)
    for part in parts.values():  # in the source's order, and each row knows where it came from
        assert list(part.numbers) == sorted(part.numbers)
        assert texts_of(part) == [rows[number - 1] for number in part.numbers]


def test_a_held_out_split_has_its_share_and_at_most_1000_rows():
    small = complete_splits({"train": selection([f"row {i}" for i in range(200)])}, instruction(held_out_fraction=0.2))
    assert [len(small[part]) for part in ("train", "validation", "test")] == [120, 40, 40]
    large = complete_splits({"train": selection([f"row {i}" for i in range(15_000)])}, instruction())
    assert len(large["test"]) == len(large["validation"]) == MOST_HELD_OUT
    few = complete_splits({"train": selection(["a", "b", "c"])}, instruction())
    assert [len(few[part]) for part in ("train", "validation", "test")] == [1, 1, 1]


def test_splits_that_are_there_are_kept_and_only_the_missing_one_is_carved():
    there = {"train": selection([f"row {i}" for i in range(50)]), "test": selection(["t"] * 7, "test")}
    parts = complete_splits(there, instruction())
    assert parts["test"] is there["test"]
    assert len(parts["validation"]) == 5
    assert len(parts["train"]) == 45


def test_limits_take_the_first_rows_after_the_carving():
    whole = complete_splits({"train": selection([f"row {i}" for i in range(100)])}, instruction())
    limited = complete_splits(
        {"train": selection([f"row {i}" for i in range(100)])}, instruction(max_train_examples=7, max_eval_examples=3)
    )
    assert texts_of(limited["train"]) == texts_of(whole["train"])[:7]
    assert texts_of(limited["test"]) == texts_of(whole["test"])[:3]
    assert texts_of(limited["validation"]) == texts_of(whole["validation"])[:3]


@pytest.mark.parametrize("rows", [["a"], ["a", "b"], ["a"] * 50, ["a", "b"] * 30])
def test_too_few_different_rows_are_refused(rows):
    with pytest.raises(DataError, match="too few to hold out test and validation") as refused:
        complete_splits({"train": selection(rows)}, instruction())
    assert refused.value.problems[0].key == "data.eval_split"
    assert "add rows" in refused.value.problems[0].fix


def test_rows_that_are_all_doubled_can_still_be_held_out():
    parts = complete_splits({"train": selection(["a", "b", "c", "d"] * 2)}, instruction())
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [4, 2, 2]


def test_a_single_document_is_cut_between_lines_at_its_end():
    lines = [f"line {i} of the document\n" for i in range(100)]
    parts = complete_splits({"train": selection(["".join(lines)])}, section("a.txt", task="causal_lm"))
    train, validation, test = (texts_of(parts[part])[0] for part in ("train", "validation", "test"))
    assert train + validation + test == "".join(lines)
    assert test.startswith("line ")
    assert validation.startswith("line ")
    assert len(test) / len("".join(lines)) == pytest.approx(0.1, abs=0.02)


@given(st.text(st.sampled_from("ab \n"), max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_piece_of_a_cut_document_is_blank(text):
    train = {"train": selection([text])}
    settings = section("a.txt", task="causal_lm")
    if sum(bool(line.strip()) for line in text.split("\n")) < 3:
        with pytest.raises(DataError, match="too few lines"):
            complete_splits(train, settings)
        return
    try:
        parts = complete_splits(train, settings)
    except DataError:  # the share of two splits may leave nothing but blank lines
        return
    pieces = [texts_of(parts[part])[0] for part in ("train", "validation", "test")]
    assert "".join(pieces) == text
    assert all(piece.strip() for piece in pieces)


def test_models_with_other_tokenizers_are_tested_on_the_same_rows(tmp_path):
    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(60)]
    random.Random(0).shuffle(rows)
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = bpe(chat_template="{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}")
    texts = []
    for tokenizer in (bpe(), chat):
        test = tokenise(section(path), tokenizer, None).rows("test")
        texts.append([tokenizer.decode(labels[labels != -100], skip_special_tokens=True).strip() for _, labels in test])
    assert len(texts[0]) == 6
    assert [text.split("It is")[1] for text in texts[0]] == [text.split("It is")[1] for text in texts[1]]
