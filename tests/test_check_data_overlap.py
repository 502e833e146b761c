import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_dist.data.checking.label_balance import label_balance, look_like_labels
from lora_dist.data.checking.overlap import SIMILAR, WORDS, Pair, jaccard, matches, near_duplicates, repeats, shingles
from lora_dist.data.checking.repeated import compared, leaked
from lora_dist.data.columns import Selection
from lora_dist.data.formats import Example

WORD = st.sampled_from(["ann", "has", "nine", "red", "apples", "and", "two", "pears"])
# Texts that are often similar: one, with a few words of it replaced or left out.
FAMILY = st.builds(
    lambda words, changes: [
        " ".join(w for i, w in enumerate(words) if i not in gone) + (f" {tail}" if tail else "")
        for gone, tail in changes
    ],
    st.lists(WORD, min_size=1, max_size=60),
    st.lists(st.tuples(st.sets(st.integers(0, 59), max_size=2), st.one_of(st.just(""), WORD)), min_size=1, max_size=5),
)
TEXTS = st.lists(FAMILY, min_size=0, max_size=5).map(lambda families: [text for family in families for text in family])


def sets_of_words(text):
    """The runs of words by an independent way: sets of tuples."""
    words = text.split()
    size = min(WORDS, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()


def similarity(left, right):
    union = sets_of_words(left) | sets_of_words(right)
    return len(sets_of_words(left) & sets_of_words(right)) / len(union) if union else 0.0


@given(TEXTS, TEXTS)
def test_near_duplicates_are_those_that_comparing_every_two_rows_finds(left, right):
    found = near_duplicates([shingles(text) for text in left], [shingles(text) for text in right])
    expected = []
    for i, text in enumerate(left):
        similar = [j for j, other in enumerate(right) if similarity(text, other) >= SIMILAR]
        expected += [Pair(i, similar[0])] if similar else []
    assert found == expected


@given(TEXTS, TEXTS)
def test_the_similarity_is_that_of_sets(left, right):
    for one, other in zip(left, right, strict=False):
        assert jaccard(shingles(one), shingles(other)) == pytest.approx(similarity(one, other))


def test_case_punctuation_and_spaces_do_not_count_and_signs_without_spaces_are_words():
    first, second = shingles("Ann has 9 apples, and Tom two."), shingles("ann  HAS 9 apples and\ntom two")
    assert np.array_equal(first, second)
    assert len(shingles("彼は九つの林檎を持っている")) == 13 - WORDS + 1
    assert len(shingles("한국어 문장은 띄어 씁니다")) == 1
    assert len(shingles("?!")) == 0
    assert near_duplicates([shingles("")], [shingles("")]) == []


def test_a_phrase_that_all_rows_share_does_not_make_every_two_rows_a_pair_to_compare(monkeypatch):
    dice = random.Random(0)
    phrase = "write a short summary of the following text for a child " * 2
    rows = [shingles(phrase + " ".join(str(dice.randrange(10**6)) for _ in range(40))) for _ in range(400)]
    compared_pairs = []
    monkeypatch.setattr(
        "lora_dist.data.checking.overlap.jaccard", lambda *pair: compared_pairs.append(pair) or jaccard(*pair)
    )
    assert near_duplicates(rows[:200], rows[200:]) == []
    assert len(compared_pairs) < 400  # of 40,000


@given(st.lists(st.integers(0, 9), max_size=20), st.lists(st.integers(0, 9), max_size=20))
def test_repeats_and_matches_name_the_first_occurrence(left, right):
    assert {(p.left, p.right) for p in repeats(left)} == {
        (i, left.index(value)) for i, value in enumerate(left) if left.index(value) < i
    }
    assert {(p.left, p.right) for p in matches(left, right)} == {
        (i, right.index(value)) for i, value in enumerate(left) if value in right
    }


PROMPT, ANSWER = st.sampled_from([f"what is {i}" for i in range(8)]), st.sampled_from(["one", "two"])
ROWS = st.lists(st.tuples(PROMPT, ANSWER), min_size=1, max_size=12)


def disguised(text, dice):
    """The same text with other case and spaces."""
    words = [dice.choice([word, word.upper(), word.title()]) for word in text.split()]
    return dice.choice(["", " ", "\n"]) + dice.choice([" ", "  ", "\t", "\n"]).join(words)


def as_split(name, rows, dice):
    told = [(disguised(prompt, dice), disguised(answer, dice)) for prompt, answer in rows]
    examples = [Example(f"Q: {p}\nA: {a}", ((len(f"Q: {p}\nA:"), len(f"Q: {p}\nA: {a}")),), False) for p, a in told]
    return compared("instruction", Selection(name, told, range(1, len(told) + 1)), examples)


@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_every_row_of_test_that_train_has_is_found_whatever_its_case_and_spaces(train, test, dice):
    found = {f.kind: f for f in leaked({"train": as_split("train", train, dice), "test": as_split("test", test, dice)},
                                       lambda *_: None)}  # fmt: skip
    equal = [i for i, row in enumerate(test, start=1) if row in train]
    prompts = {prompt for prompt, _ in train}
    # A split with one prompt for all rows asks nothing, and is not compared by it.
    told = all(len({prompt for prompt, _ in rows}) > 1 or len(rows) == 1 for rows in (train, test))
    asked = [i for i, row in enumerate(test, start=1) if row not in train and row[0] in prompts] if told else []
    for kind, expected in (("leaked_row", equal), ("leaked_prompt", asked)):
        assert (found[kind].count if kind in found else 0) == len(expected)
        assert (found[kind].rows if kind in found else ()) == tuple(expected[:3])
    if equal:
        assert found["leaked_row"].other_rows == tuple(train.index(test[i - 1]) + 1 for i in equal[:3])


def test_the_lines_of_single_documents_are_compared_and_short_ones_are_not():
    long = "the quick brown fox jumps over the lazy dog again"
    texts = {"train": f"= Heading =\n{long}\nanother line", "test": f"= Heading =\nnew\n\n{long.upper()}\n"}
    splits = {
        part: compared("causal_lm", Selection(part, [(text,)], [1]), [Example(text, ((0, len(text)),), False)])
        for part, text in texts.items()
    }
    (finding,) = leaked(splits, lambda *_: None)
    assert (finding.kind, finding.count, finding.rows, finding.other_rows) == ("leaked_row", 1, (4,), (2,))
    assert (
        "lines of test that train has too, case and spaces aside: 1 of 1 (line 4 like line 2)"
        in finding.problem.problem
    )


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abcd")))
def test_label_counts_add_up_and_unseen_labels_are_those_that_train_lacks(train, test):
    balance = label_balance({"train": train, "test": test})
    for split, labels in (("train", train), ("test", test)):
        assert sum(balance.counts[split].values()) == len(labels)
        assert sum(balance.share(split, label) for label in balance.labels) == pytest.approx(1 if labels else 0)
        majority = balance.majority(split)
        assert (majority is None) == (not labels)
        if majority is not None:
            assert majority[1] == max(labels.count(label) for label in labels) / len(labels)
    assert set(balance.unseen("test")) == set(test) - set(train)
    assert balance.unseen("train") == []
    assert balance.labels == sorted(balance.labels, key=lambda label: (-train.count(label), label))


def test_labels_are_told_by_what_they_print_as_and_their_spellings_are_noticed():
    balance = label_balance({"train": [1, 1, 0, "yes", "Yes "], "test": [True]})
    assert balance.counts["train"] == {"1": 2, "0": 1, "Yes ": 1, "yes": 1, "True": 0}
    assert balance.spellings == [["Yes ", "yes"]]
    assert balance.unseen("test") == ["True"]
    assert balance.document()["train"]["majority"] == {"label": "1", "share": 0.4}
    assert label_balance({}).labels == []


def test_few_different_completions_look_like_labels_and_texts_do_not():
    assert look_like_labels(["good", "bad"] * 10)
    assert not look_like_labels(["good", "bad"] * 9)
    assert not look_like_labels([str(i) for i in range(21)] * 20)
    assert not look_like_labels([])
