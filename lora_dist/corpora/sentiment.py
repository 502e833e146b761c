"""The dataset `sentiment`: short reviews whose label hangs on how words go together, not on which ones there are.

A good and a bad word are often both there, and negation, contrast, time and whose opinion it is decide between them.
Held out for test: one in seven pairs of an aspect and an opinion (such as the waiter and friendly or rude). Training
meets both of them, but never this aspect being called that. About a third of the test rows hold no such pair.
"""

from __future__ import annotations

from typing import NamedTuple

from lora_dist.corpora import words
from lora_dist.corpora.dice import Dice
from lora_dist.corpora.sentiment_words import DOMAINS, Aspect, Group
from lora_dist.corpora.splits import Draft, Splits, deal, is_held_out

SIZES = {"train": 1200, "validation": 150, "test": 300}
_SEED = 31

# Fields: a, A aspect; was, is, it its verb and pronoun; w a word of the label's side and o its opposite;
# b, B, bwas, v, u the same of a second aspect (u is the opposite of v).
_JUDGED = (
    "{A} {was} {very}{w}.",
    "I found {a} {very}{w}.",
    "{A} {was} not {o} at all.",
    "{A} {was} anything but {o}.",
    "{A} {was} far from {o}.",
    "{A} {was} hardly {o}.",
    "{A} {was} not nearly as {o} as {expected}.",
    "{A} {was} a lot less {o} than {expected}.",
    "There was nothing {o} about {a}.",
    "Nobody could call {a} {o}.",
    "I would be lying if I called {a} {o}.",
    "Could {a} be any more {w}? I doubt it.",
    "{who} called {a} {o}, and I could not disagree more.",
    "{who} called {a} {o}, but {is_it} {w} if you ask me.",
    "{who} was right to call {a} {w}.",
    "{who} was wrong to call {a} {o}.",
    "{A} used to be {o}, but now {it} {is} {w}.",
    "{A} {is} {w} now, after years of being {o}.",
    "At first {a} seemed {o}, but in the end {it} proved {w}.",
    "{A} proved {w} in the end, however {o} {it} seemed at first.",
    "{preposition} the last {subject} {a} {was} {o}; {preposition} this one {it} {is} {w}.",
)
_WEIGHED = (
    "{A} {was} {o}, but {b} {bwas} so {v} that it hardly mattered.",
    "{B} {bwas} so {v} that it hardly mattered how {o} {a} {was}.",
    "{A} {was} {o}. What I will remember, though, is how {v} {b} {bwas}.",
    "What does it matter that {a} {was} {o} when {b} {bwas} {v}?",
    "{B} {bwas} {v}, and that {a} {was} {o} does not change my mind.",
    "Although {a} {was} {o}, {b} {bwas} {v}, and that is what counts.",
    "{B} {bwas} {v}, and that is what counts, although {a} {was} {o}.",
    "Neither {was} {a} {o} nor {bwas} {b} {u}.",
    "{A} {was} {w} and {b} {bwas} {v}.",
    "{A} {was} not {o}, and {b} {bwas} {v}.",
)
_WISHED = (
    "I wish {a} had been {o}.",
    "If only {a} had been {o}!",
    "I would have liked {a} to be less {w}.",
    "They promised that {a} would be {o}. I am still waiting.",
)
_UNDECIDED = (
    "{A} {was} neither {w} nor {o}.",
    "{A} {was} {w} and {b} {bwas} {u}, so for me the two cancel out.",
    "{A} {was} a little {o}, {b} {bwas} a little {v}; it could have been any {subject}.",
    "Some find {a} {w}, others find {it_object} {o}, and both have a point.",
    "Does anybody know if {a} {is} {w}?",
    "Is it true that {a} {is} {w}? I have not been able to find out.",
    "{who} called {a} {w}. I have not formed an opinion yet.",
    "If {a} {is} {w} next time, I will write more.",
    "Whether {a} {is} {w} or {o} depends on the day.",
    "I cannot say if {a} {was} {o}, as I never paid attention to {it_object}.",
    "{A} {was} no more {w} and no more {o} than elsewhere.",
)
_EXPECTED = ("I expected", "I was told", "{name} had said", "the pictures suggest", "most reviews say", "I remembered")
_HOPED = {True: ("I feared", "I was warned"), False: ("I hoped", "they promise")}  # by whether it turned out better
_WHO = ("{name}", "My sister", "My neighbour", "A friend of mine", "The newspaper", "One review", "{name}'s brother")
_VERY = ("", "", "very ", "really ", "rather ", "so ", "quite ")
_VERDICTS = {
    "positive": ("I would choose it again.", "Warmly recommended.", "We are happy with it."),
    "negative": ("I want my money back.", "Never again.", "We are not happy with it."),
    "neutral": ("That is all I can say.", "Make of it what you will.", "I may write again later."),
}


class _Judgement(NamedTuple):
    """An aspect with two opposite words, the first of them on the label's side."""

    aspect: Aspect
    word: str
    opposite: str
    is_held_out: bool


def sentiment(sizes: dict[str, int] = SIZES) -> Splits:
    """The splits of `sentiment`; rows have `text` and `label` (negative, neutral or positive: 45, 20 and 35%)."""
    return deal(_write, sizes, _SEED)


def _write(dice: Dice) -> Draft:
    label = dice.pick(("negative",) * 9 + ("neutral",) * 4 + ("positive",) * 7)
    good = dice.chance(0.5) if label == "neutral" else label == "positive"
    domain = dice.pick(DOMAINS)
    first, second = (_judge(dice, group, good) for group in dice.some(domain.groups, 2))
    named = {"name": dice.pick(words.NAMES), "subject": dice.pick(domain.subjects)}
    frame = dice.pick(_frames(dice, label))
    fields = _fields(dice, first, second, good) | {"preposition": domain.preposition} | named
    review = _sentence(frame.format(**fields).format(**named))  # some fields name a person
    if dice.chance(0.5):
        when = {"day": dice.pick(words.DAYS), "month": dice.pick(words.MONTHS), "count": dice.number(2, 9)}
        review = f"{dice.pick(domain.leads).format(**named, **when)} {review}"
    if dice.chance(0.15):
        review = f"{review} {dice.pick(_VERDICTS[label])}"
    held_out = first.is_held_out or (second.is_held_out and "{b}" in frame.lower())
    return Draft({"text": review, "label": label}, review, held_out)


def _frames(dice: Dice, label: str) -> tuple[str, ...]:
    if label == "neutral":
        return _UNDECIDED
    if label == "negative" and dice.chance(0.1):
        return _WISHED
    return _JUDGED if dice.chance(0.6) else _WEIGHED


def _judge(dice: Dice, group: Group, good: bool) -> _Judgement:
    aspect, opinion = dice.number(0, len(group.aspects) - 1), dice.number(0, len(group.opinions) - 1)
    praise, blame = group.opinions[opinion]
    word, opposite = (praise, blame) if good else (blame, praise)
    return _Judgement(group.aspects[aspect], word, opposite, is_held_out(aspect, opinion))


def _fields(dice: Dice, first: _Judgement, second: _Judgement, good: bool) -> dict[str, str]:
    many, second_many = first.aspect.is_plural, second.aspect.is_plural
    a, b = f"the {first.aspect.name}", f"the {second.aspect.name}"
    return {
        "a": a,
        "A": _sentence(a),
        "was": "were" if many else "was",
        "is": "are" if many else "is",
        "it": "they" if many else "it",
        "is_it": "they are" if many else "it is",
        "it_object": "them" if many else "it",
        "w": first.word,
        "o": first.opposite,
        "b": b,
        "B": _sentence(b),
        "bwas": "were" if second_many else "was",
        "v": second.word,
        "u": second.opposite,
        "very": dice.pick(_VERY),
        "who": dice.pick(_WHO),
        "expected": dice.pick((*_EXPECTED, *_HOPED[good])),
    }


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
