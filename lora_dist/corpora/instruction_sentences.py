"""Tasks about sentences and the facts in them, for the dataset `instructions`."""

from __future__ import annotations

from typing import NamedTuple

from lora_dist.corpora import words
from lora_dist.corpora.dice import Dice
from lora_dist.corpora.instruction_words import (
    ADVERBS,
    UNITS,
    VERBS,
    Task,
    Verb,
)


class _Sentence(NamedTuple):
    who: str
    verb: Verb
    what: str
    where: str
    combination: tuple[int, int]


def _sentence(dice: Dice) -> _Sentence:
    """Somebody does something: the pair is that of verb and object."""
    verb, thing = dice.number(0, len(VERBS) - 1), dice.number(0, len(words.THINGS) - 1)
    where = dice.pick(("", f" at the {dice.pick(words.PLACES)}", f" near the {dice.pick(words.PLACES)}"))
    what = f"{dice.pick(('a', 'the', 'the ' + dice.pick(words.COLOURS)))} {words.THINGS[thing]}"
    return _Sentence(f"the {dice.pick(words.TRADES)}", VERBS[verb], what, where, (verb, thing))


def past_tense(dice: Dice) -> Task:
    """The baker sells a lamp. -> The baker sold a lamp."""
    who, verb, what, where, combination = _sentence(dice)
    given = f"{who.capitalize()} {verb.third} {what}{where}."
    return Task(given, f"{who.capitalize()} {verb.past} {what}{where}.", combination, {})


def negate(dice: Dice) -> Task:
    """The baker sells a lamp. -> The baker does not sell a lamp."""
    who, verb, what, where, combination = _sentence(dice)
    given = f"{who.capitalize()} {verb.third} {what}{where}."
    return Task(given, f"{who.capitalize()} does not {verb.base} {what}{where}.", combination, {})


def ask(dice: Dice) -> Task:
    """The baker sells a lamp. -> Does the baker sell a lamp?"""
    who, verb, what, where, combination = _sentence(dice)
    given = f"{who.capitalize()} {verb.third} {what}{where}."
    return Task(given, f"Does {who} {verb.base} {what}{where}?", combination, {})


def passive(dice: Dice) -> Task:
    """The baker sells a lamp. -> A lamp is sold by the baker."""
    who, verb, what, _, combination = _sentence(dice)
    given = f"{who.capitalize()} {verb.third} {what}."
    return Task(given, f"{what.capitalize()} is {verb.participle} by {who}.", combination, {})


def shorten(dice: Dice) -> Task:
    """On Monday the old baker often sells a lamp at the park. -> The baker sells a lamp."""
    who, verb, what, where, combination = _sentence(dice)
    doer = who.removeprefix("the ")
    given = f"The {dice.pick(words.QUALITIES)} {doer} {dice.pick(ADVERBS)} {verb.third} {what}{where}."
    if dice.chance(0.5):
        given = f"On a {dice.pick(words.WEATHERS)} {dice.pick(words.DAYS)} {given[0].lower()}{given[1:]}"
    return Task(given, f"The {doer} {verb.third} {what}.", combination, {})


def count_words(dice: Dice) -> Task:
    """The baker sells a lamp. -> 5."""
    who, verb, what, where, combination = _sentence(dice)
    adverb = dice.pick(("", "", f" {dice.pick(ADVERBS)}"))
    given = f"{who.capitalize()}{adverb} {verb.third} {what}{where}."
    return Task(given, str(len(given.split())), combination, {})


def extract_date(dice: Dice) -> Task:
    """The day, month and year among other numbers."""
    day, month = dice.number(1, 28), dice.number(0, 11)
    date = f"{day} {words.ALL_MONTHS[month]} {dice.number(1950, 2039)}"
    name, place, count = dice.pick(words.NAMES), dice.pick(words.PLACES), dice.number(2, 90)
    given = dice.pick((
        f"The {place} opened its {count} rooms on {date}.",
        f"On {date} {name} met {count} people at the {place}.",
        f"{name} paid {count} dollars for a table on {date}, in the {place}.",
        f"Ticket {count} for the {place} is valid until {date} and belongs to {name}.",
        f"Since {date} the {place} has had {count} visitors a day.",
    ))  # fmt: skip
    return Task(given, date, (day, month), {})


def fill_form(dice: Dice) -> Task:
    """The lines that are asked for, in the order in which they are asked for."""
    town, month = dice.number(0, len(words.TOWNS) - 1), dice.number(0, 11)
    name = f"{dice.pick(words.NAMES)} {dice.pick(words.SURNAMES)}"
    born, job = f"{dice.number(1, 28)} {words.ALL_MONTHS[month]} {dice.number(1950, 2005)}", dice.pick(words.TRADES)
    given = dice.pick((
        f"{name}, born on {born}, lives in {words.TOWNS[town]} and works as a {job}.",
        f"The {job} from {words.TOWNS[town]} is called {name}. The birthday is {born}.",
        f"Born on {born}, {name} is now a {job} in {words.TOWNS[town]}.",
    ))  # fmt: skip
    values = {"Name": name, "Town": words.TOWNS[town], "Born": born, "Job": job}
    asked = dice.some(list(values), 3)
    output = "\n".join(f"{key}: {values[key]}" for key in asked)
    return Task(given, output, (town, month), {"lines": ", ".join(asked)})


def convert_units(dice: Dice) -> Task:
    """3 kilometres -> 3000 metres, or back."""
    unit, count = dice.number(0, len(UNITS) - 1), dice.number(2, 30)
    large, small, factor = UNITS[unit]
    much, little = f"{count} {large}", f"{count * factor} {small}"
    if dice.chance(0.5):
        return Task(much, little, (unit, count), {"unit": small})
    return Task(little, much, (unit, count), {"unit": large})


def day_after(dice: Dice) -> Task:
    """3 days after Monday -> Thursday."""
    day, days = dice.number(0, 6), dice.number(2, 13)
    output = words.DAYS[(day + days) % 7]
    return Task(words.DAYS[day], output, (day, days), {"days": str(days)})


def on_the_clock(dice: Dice) -> Task:
    """3:15 pm -> 15:15."""
    hour, minute = dice.number(1, 12), dice.number(0, 11)
    half = dice.pick(("am", "pm"))
    output = f"{hour % 12 + (12 if half == 'pm' else 0):02}:{5 * minute:02}"
    return Task(f"{hour}:{5 * minute:02} {half}", output, (hour, minute), {})
