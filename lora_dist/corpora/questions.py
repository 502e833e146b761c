"""The dataset `questions`: short passages about a few people, a question, and an answer that is a span of the passage.

A passage tells the same kinds of facts of two or three people, so that the question decides which one is meant; who
did it is often only a pronoun there. Held out for test: one in seven pairs of how a fact is told and how it is
asked about. About half of the test rows are such pairs.
"""

from __future__ import annotations

from typing import NamedTuple

from lora_dist.corpora import words
from lora_dist.corpora.dice import Dice
from lora_dist.corpora.question_facts import RELATIONS, VALUES
from lora_dist.corpora.splits import Draft, Splits, deal, is_held_out

SIZES = {"train": 900, "validation": 100, "test": 200}
_SEED = 35
_MALE = frozenset(("Tom", "Leo", "Ben", "Max", "Sam", "Omar", "Ivan", "Hugo", "Paul", "Karl", "Jonas", "Finn"))


class _Fact(NamedTuple):
    relation: int
    telling: int
    slots: dict[str, str]


def questions(sizes: dict[str, int] = SIZES) -> Splits:
    """The splits of `questions`; rows have `context`, `question` and `answer`, which is in the context."""
    return deal(_write, sizes, _SEED)


def _write(dice: Dice) -> Draft:
    facts = _facts(dice)
    context = _told(facts)
    fact = dice.pick(facts)
    asked = dice.number(0, len(RELATIONS[fact.relation].questions) - 1)
    slot, wording = RELATIONS[fact.relation].questions[asked]
    row = {"context": context, "question": wording.format(**fact.slots), "answer": fact.slots[slot]}
    return Draft(row, context, is_held_out(fact.telling, asked))


def _facts(dice: Dice) -> list[_Fact]:
    """Two of three kinds of facts about each of two or three people; no value is told of two of them."""
    relations = dice.some(range(len(RELATIONS)), 3)
    left = {slot: list(values) for slot, values in VALUES.items()}
    count = dice.number(2, 3)
    people = zip(dice.some(words.NAMES, count), dice.some(words.SURNAMES, count), strict=True)
    facts = []
    for first, last in people:
        for relation in dice.some(relations, 2):
            slots = {slot: values.pop(dice.number(0, len(values) - 1)) for slot, values in left.items()}
            telling = dice.number(0, len(RELATIONS[relation].tellings) - 1)
            facts.append(_Fact(relation, telling, slots | {"who": f"{first} {last}"}))
    return facts


def _told(facts: list[_Fact]) -> str:
    """The passage: whoever the sentence before was about is only he or she."""
    sentences, before = [], None
    for relation, telling, slots in facts:
        name = slots["who"]
        pronoun = "he" if name.split()[0] in _MALE else "she"
        named = slots | {"who": pronoun if name == before else name}
        sentence = RELATIONS[relation].tellings[telling].format(**named)
        sentences.append(sentence[0].upper() + sentence[1:])
        before = name
    return " ".join(sentences)
