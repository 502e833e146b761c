"""The words that the tasks of the dataset `instructions` are about."""

from __future__ import annotations

from typing import NamedTuple

from lora_dist.corpora import words


class Task(NamedTuple):
    """A task without its wording."""

    given: str
    """What the task is about: the input, or part of the instruction where the wording has a place for it."""
    output: str
    combination: tuple[int, int]
    """The two arguments that matter most, by number; one in seven pairs of them is for the test split alone."""
    fields: dict[str, str]
    """What else the wording says."""


class Verb(NamedTuple):
    """A verb that takes any thing as its object."""

    base: str
    third: str
    past: str
    participle: str


def _verb(forms: str) -> Verb:
    return Verb(*forms.split())


VERBS = (
    _verb("carry carries carried carried"),
    _verb("paint paints painted painted"),
    _verb("draw draws drew drawn"),
    _verb("sell sells sold sold"),
    _verb("buy buys bought bought"),
    _verb("find finds found found"),
    _verb("build builds built built"),
    _verb("hide hides hid hidden"),
    _verb("lose loses lost lost"),
    _verb("choose chooses chose chosen"),
    _verb("clean cleans cleaned cleaned"),
    _verb("wash washes washed washed"),
    _verb("break breaks broke broken"),
    _verb("bring brings brought brought"),
    _verb("repair repairs repaired repaired"),
    _verb("throw throws threw thrown"),
    _verb("take takes took taken"),
    _verb("copy copies copied copied"),
)
ADVERBS = ("slowly", "quickly", "carefully", "quietly", "gladly", "rarely", "often", "secretly")
CLASSES = {
    "animal": tuple(animal.one for animal in words.ANIMALS),
    "vehicle": words.VEHICLES,
    "colour": words.COLOURS,
    "plant": tuple(plant.one for plant in words.PLANTS),
    "furniture": words.FURNITURE,
    "job": words.JOBS,
}
WORDS = tuple(dict.fromkeys([*(item.one for item in words.ITEMS), *CLASSES["animal"], *words.COLOURS, *words.PLACES]))
"""Words to sort, count and spell."""
LETTERS = "aeirontl"
UNITS = (
    ("kilometres", "metres", 1000), ("metres", "centimetres", 100), ("kilograms", "grams", 1000),
    ("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24), ("weeks", "days", 7),
    ("years", "months", 12), ("litres", "millilitres", 1000), ("dozens", "pieces", 12), ("feet", "inches", 12),
    ("yards", "feet", 3),
)  # fmt: skip
"""One of the first is so many of the second."""
