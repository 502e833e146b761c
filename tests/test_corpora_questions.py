"""Passages that are read back into facts, pronouns resolved, so that each question finds its one answer again."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from lora_dist.corpora.question_facts import RELATIONS, VALUES
from lora_dist.corpora.registry import load

NAME = r"[A-Z][a-z]+ [A-Z][a-z]+"


@cache
def pattern_of(template):
    """A telling or a question as a pattern; the same slot is asked for once."""
    pattern = re.escape(template.replace("{", "<").replace("}", ">")).replace(r"\<", "<").replace(r"\>", ">")
    for slot, values in VALUES.items():
        pattern = pattern.replace(f"<{slot}>", f"(?P<{slot}>{'|'.join(map(re.escape, values))})", 1)
    return re.compile(pattern.replace("<who>", rf"(?P<who>{NAME}|[Ss]?[Hh]e)", 1))


def read(context):
    """(relation, telling, slots) of each sentence; whom a pronoun means is whoever was named last."""
    facts, before = [], None
    for sentence in re.split(r"(?<=\.) ", context):
        fits = [
            (number, telling, dict(found.groupdict()))
            for number, relation in enumerate(RELATIONS)
            for telling, template in enumerate(relation.tellings)
            if (found := pattern_of(template).fullmatch(sentence))
        ]
        ((number, telling, slots),) = fits
        if slots["who"].lower() in ("he", "she"):
            slots["who"] = before
        before = slots["who"]
        facts.append((number, telling, slots))
    return facts


def asked_of(question):
    """Every (relation, number of the question, slot that is asked for, what is known) that the question may mean."""
    return [
        (number, asked, slot, found.groupdict())
        for number, relation in enumerate(RELATIONS)
        for asked, (slot, template) in enumerate(relation.questions)
        if (found := pattern_of(template).fullmatch(question))
    ]


def answers_to(row):
    """(answer, relation, telling, question) of every fact that answers the question of a row."""
    return [
        (slots[slot], number, telling, asked)
        for number, asked, slot, known in asked_of(row["question"])
        for relation, telling, slots in read(row["context"])
        if relation == number and all(slots[key] == value for key, value in known.items())
    ]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_passage_has_one_answer_and_it_is_a_span_of_it(split):
    for row in load("questions")[split]:
        ((answer, *_),) = answers_to(row)
        assert answer == row["answer"], row
        assert re.search(rf"\b{answer}\b", row["context"]), row


def test_other_facts_of_the_same_kind_could_be_mistaken_for_the_one_that_is_asked_about():
    rows = load("questions")["train"]
    rivals = [Counter(number for number, _, _ in read(row["context"]))[answers_to(row)[0][1]] for row in rows]
    assert sum(count > 1 for count in rivals) > 0.6 * len(rows)


def test_passages_have_four_or_six_sentences_and_half_of_them_a_pronoun_for_a_person():
    for row in load("questions")["train"]:
        sentences = re.split(r"(?<=\.) ", row["context"])
        assert len(sentences) in (4, 6)
        assert sum(bool(re.search(r"\b[Ss]?[Hh]e\b", sentence)) for sentence in sentences) == len(sentences) / 2


def test_every_kind_of_fact_is_asked_about_for_each_of_its_slots():
    slots = {(answers_to(row)[0][1], asked_of(row["question"])[0][2]) for row in load("questions")["train"]}
    assert slots == {(number, slot) for number, relation in enumerate(RELATIONS) for slot, _ in relation.questions}


def test_some_pairs_of_telling_and_asking_are_only_in_the_test_split():
    pairs = {split: [answers_to(row)[0][1:] for row in rows] for split, rows in load("questions").items()}
    known = {*pairs["train"], *pairs["validation"]}
    new = [pair for pair in pairs["test"] if pair not in known]
    assert 0.4 < len(new) / len(pairs["test"]) < 0.7
    assert {(number, telling) for number, telling, _ in new} <= {(number, telling) for number, telling, _ in known}
    assert {(number, asked) for number, _, asked in new} <= {(number, asked) for number, _, asked in known}
