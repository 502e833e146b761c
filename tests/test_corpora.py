"""The built-in texts: the same everywhere, right in their sums, and with nothing in common between the splits."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import pytest

from lora_dist.corpora.general_text import documents
from lora_dist.corpora.problem_kinds import KINDS
from lora_dist.corpora.registry import BUILTIN_DATASETS, fingerprint, load
from lora_dist.corpora.word_problems import problems
from lora_dist.errors import DataError
from lora_dist.models.pretraining import Recipe, train_tokenizer

# Change these only together with a deliberate change of the texts: old results then compare with new ones no longer.
GOLDEN = {
    "word-problems": "fdb467b268a0ea4c2248d9b1f3ec8aea26c03a198a50c677f497ae239314d9c3",
    "general-text": "ea0e9593ea8d039791566dd5d3d94f93b8a0aa668f25fff971c801ac4533068c",
    "sentiment": "eb5483fa87dfdc0f05f0dca479e595f49c5085744dd6ecac348ed1faac002904",
    "dialogues": "c819d16ab18b585126e5910cc888408f723332b0d95672f04dba4473dae8dbc1",
    "instructions": "5585c23b00b503f326fbc09e035130119306b07e42fc604859275ff0731bd873",
    "symbolic-math": "f45a30fee493920474a019f6a8a69437ca1737683129981705024df6d3968e45",
    "questions": "c6ebdb1e37d7a870da31b297724c75f9bdc8ab1eb78ddd35fd70dc45d5ded751",
    "the built-in model's text": "8143eb9ef9cfb2b2c14491f7b937b0e67a22705a90533ce9bc6bbadc8bd6f1d2",
}

SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
OPERATIONS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}


@pytest.mark.parametrize("name", BUILTIN_DATASETS)
def test_a_dataset_is_the_same_on_every_machine(name):
    assert fingerprint(name) == GOLDEN[name]


def test_the_text_of_the_builtin_model_is_the_same_on_every_machine():
    text = "\n\n".join(documents(Recipe().documents, Recipe().seed))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN["the built-in model's text"]


def test_a_shorter_text_is_the_beginning_of_a_longer_one():
    assert documents(50, seed=3) == documents(80, seed=3)[:50]
    assert documents(50, seed=3) != documents(50, seed=4)


def test_every_sum_of_the_datasets_is_right():
    texts = [row["answer"] for rows in load("word-problems").values() for row in rows]
    texts += [row["text"] for rows in load("general-text").values() for row in rows]
    sums = [found for text in texts for found in SUM.findall(text)]
    assert len(sums) > 2000
    for left, sign, right, value in sums:
        assert OPERATIONS[sign](int(left), int(right)) == int(value), (left, sign, right, value)
        assert sign != "/" or int(left) % int(right) == 0


def test_an_answer_is_one_to_four_steps_and_the_result_of_the_last_one():
    for row in load("word-problems")["train"]:
        *steps, last = row["answer"].split("\n")
        assert 1 <= len(steps) <= 4
        assert all(len(SUM.findall(step)) == 1 for step in steps)
        assert last == f"#### {SUM.findall(steps[-1])[0][3]}"


def test_no_noun_is_counted_wrongly():
    texts = [f"{row['question']} {row['answer']}" for row in load("word-problems")["train"]]
    plural_of_one = re.compile(r"(?<![\d=*/+-] )\b1 (\w+s|people)\b")
    assert not [text for text in texts if plural_of_one.search(text)]


def test_every_kind_of_problem_is_asked():
    assert len(KINDS) >= 12
    beginnings = {re.sub(r"\d+ .*", "", row["answer"].split("\n")[-2])[:9] for row in load("word-problems")["train"]}
    assert len(beginnings) >= 8


@pytest.mark.parametrize("sizes", [(512, 128), (300, 900)])
def test_no_question_of_the_test_split_is_in_training(sizes):
    train, test = (
        {row["question"] for row in problems(split, size)} for split, size in zip(("train", "test"), sizes, strict=True)
    )
    assert (len(train), len(test)) == sizes
    assert not train & test


def test_some_pairs_of_kind_and_thing_are_only_in_the_test_split():
    def packed(split, count):
        asked = (re.search(r"Each \w+ holds \d+ (\w+)\.", row["question"]) for row in problems(split, count))
        return {found[1] for found in asked if found}

    train = packed("train", 4000)
    test = packed("test", 4000)
    assert train < test


def test_the_general_text_splits_are_disjoint_and_new_to_the_builtin_model():
    splits = {name: {row["text"] for row in rows} for name, rows in load("general-text").items()}
    assert not splits["train"] & splits["test"]
    known = set(documents(Recipe().documents, Recipe().seed))
    assert len(splits["test"] & known) < 10  # short ones, such as "It is red.", come again by chance


def test_every_token_of_the_word_problems_is_met_in_the_general_text():
    texts = documents(Recipe().documents, Recipe().seed)
    tokenizer = train_tokenizer(Recipe(), texts)
    met = {token for ids in tokenizer(texts)["input_ids"] for token in ids}
    rows = [row for split in load("word-problems").values() for row in split]
    needed = tokenizer([f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows])["input_ids"]
    unmet = {token for ids in needed for token in ids} - met
    assert not tokenizer.convert_ids_to_tokens(sorted(unmet))


def test_the_general_text_holds_no_worked_solution():
    result = re.compile(r"^#### \d+$", re.MULTILINE)
    assert not [text for text in documents(Recipe().documents) if result.search(text)]


def test_an_unknown_dataset_is_answered_with_the_known_ones():
    with pytest.raises(
        DataError, match=r"data\.path: no built-in dataset is called 'gsm8k'; use builtin:word-problems"
    ):
        load("builtin:gsm8k")


def test_the_corpora_need_neither_torch_nor_transformers():
    probe = "import sys, lora_dist.corpora.registry as r; r.load('word-problems'); print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "tokenizers"} & set(names)
