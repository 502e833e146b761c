"""A general text for the built-in model: stories, talks, lists, receipts, sums, questions about what was read.

It meets every token of the word problems (names, things, digits in sums, `=`, `#`, line ends), so that the
model's perplexity on them is that of a reader and not that of a guesser, but it holds no worked solution:
the word problems' task stays to be learned.
"""

from __future__ import annotations

from collections.abc import Callable

from lora_dist.corpora import words
from lora_dist.corpora.arithmetic import Sum, minus, over, plus, times
from lora_dist.corpora.dice import Dice
from lora_dist.corpora.words import Noun


def documents(count: int, seed: int = 0) -> list[str]:
    """The first `count` documents of the general text; another seed gives another text of the same manner."""
    dice = Dice(seed)
    return [dice.pick(_KINDS)(dice) for _ in range(count)]


def _thing(dice: Dice) -> Noun:
    return dice.pick((*words.ITEMS, *words.ITEMS, *words.PLANTS, *words.BAKED))


def _sum(dice: Dice, largest: int = 60) -> Sum:
    sign = dice.number(0, 3)
    if sign == 0:
        return plus(dice.number(1, largest), dice.number(1, 30))
    if sign == 1:
        whole = dice.number(3, largest)
        return minus(whole, dice.number(1, whole - 1))
    small = dice.number(2, 9)
    if sign == 2:
        return times(*((small, dice.number(2, 12)) if dice.chance(0.5) else (dice.number(2, largest), small)))
    return over(small * dice.number(2, 12), small)


def _story(dice: Dice) -> str:
    name, other = dice.some(words.NAMES, 2)
    item, box, place = _thing(dice), dice.pick(words.CONTAINERS), dice.pick(words.PLACES)
    count, mood = dice.number(2, 30), dice.pick(words.MOODS)
    first = dice.pick((
        f"On {dice.pick(words.DAYS)} {name} goes to the {place} with {other}.",
        f"{name} and {other} are at the {place}.",
        f"One {dice.pick(words.WEATHERS)} morning {name} goes by {dice.pick(words.VEHICLES)} to the {place}.",
    ))  # fmt: skip
    middle = [
        f"{name} buys {count} {item.many} there.",
        f"{name} gives {item.of(dice.number(1, 9))} to {other}.",
        f"{other} puts the {item.many} in a {box.one}.",
        f"They share the {item.many} with {dice.number(2, 8)} friends.",
        f"After that there are {dice.number(2, 40)} {item.many} left on the {dice.pick(words.FURNITURE)}.",
        f"{other} finds {count} {item.many} and sells them for {dice.number(2, 60)} dollars.",
        f"Together they have {dice.number(3, 90)} {item.many} in {dice.number(2, 9)} {box.many}.",
        f"{name} saves {dice.number(2, 9)} dollars a week and earns {dice.number(5, 90)} dollars in all.",
        f"{other} plants {dice.number(2, 9)} rows of {dice.pick(words.PLANTS).many}.",
        f"Some of the {item.many} are broken, but the others are good.",
    ]
    last = dice.pick((
        f"Then {name} is {mood}.",
        f"In the evening they go home and {other} is {mood}.",
        f"Now {name} has the {item.many} and {other} has the {box.one}.",
    ))  # fmt: skip
    return " ".join([first, *dice.some(middle, dice.number(2, 4)), last])


def _diary(dice: Dice) -> str:
    name, other = dice.some(words.NAMES, 2)
    item, box, plant = _thing(dice), dice.pick(words.CONTAINERS), dice.pick(words.PLANTS)
    animal = dice.pick(words.ANIMALS)
    lines = [
        f"After {dice.pick(words.DAYS)} it is {dice.pick(words.WEATHERS)} at the {dice.pick(words.PLACES)}.",
        f"At first {name} eats {item.of(dice.number(1, 5))} from the {box.one}.",
        f"Each {item.one} is {dice.pick(words.COLOURS)}, and one {item.one} is {dice.pick(words.QUALITIES)}.",
        f"Each friend gets one {item.one} and then they come home together.",
        f"With the others {other} fills {dice.number(2, 9)} {box.many}.",
        f"Now {name} builds a fence of {dice.number(3, 60)} metres among the {plant.many}, metre by metre.",
        f"First {other} has {dice.number(2, 50)} {plant.many}, then {plant.of(dice.number(1, 9))}.",
        f"Together they find {item.of(dice.number(1, 30))} after {dice.number(2, 9)} weeks.",
        f"In total they hold {dice.number(5, 200)} {item.many}. They fill the {box.many} and get some more.",
        f"Three times a day {name} looks after the {animal.many}, all equally {dice.pick(words.MOODS)}.",
        f"{name} and {other} earn and save {dice.number(5, 300)} dollars. Half of it is left.",
        f"The {box.many} hold {item.many}, and a friend of {other} has one {item.one} in total.",
    ]
    return dice.pick(("\n", " ")).join(dice.some(lines, dice.number(3, 5)))


def _description(dice: Dice) -> str:
    area, item, box = dice.pick(words.AREAS), _thing(dice), dice.pick(words.CONTAINERS)
    long, colour = dice.number(4, 40), dice.pick(words.COLOURS)
    sentences = [
        f"The {area} is {long} metres long and {dice.number(2, 20)} metres wide.",
        f"A {colour} fence goes around the {area}.",
        f"The {box.one} is {dice.pick(words.QUALITIES)} and {colour}. It holds {dice.number(2, 90)} {item.many}.",
        f"Each {box.one} is {dice.pick(words.QUALITIES)}.",
        f"There are {dice.number(2, 60)} {item.many} in the {box.one} and {dice.number(2, 9)} on the table.",
        f"It costs {dice.number(2, 90)} dollars to rent the {area} for {dice.number(1, 9)} hours.",
        f"In each row of the {area} there are {dice.number(3, 12)} {dice.pick(words.PLANTS).many}.",
        f"Half of the {area} is {dice.pick(words.COLOURS)}.",
    ]
    return " ".join(dice.some(sentences, dice.number(2, 4)))


def _talk(dice: Dice) -> str:
    name, other = dice.some(words.NAMES, 2)
    item, place, count = _thing(dice), dice.pick(words.PLACES), dice.number(2, 99)
    turns = dice.pick((
        (f'"Where are the {item.many}?" asked {name}.', f'"They are in the {place}," said {other}.'),
        (f'"How many {item.many} do you have now?" asked {name}.', f'"I have {count} {item.many}," said {other}.'),
        (f'"How many people are waiting?" asked {name}.', f'"There are {count} people," said {other}.'),
        (f'"Are you {dice.pick(words.MOODS)}?" asked {name}.', f'"No, I am {dice.pick(words.MOODS)}," said {other}.'),
        (f'"Is it {_sum(dice)}?" asked {name}. "A sum!" said {other}.', f"Then {other} reads {count} more pages."),
        (f'"Who works at the {place}?" asked {name}.', f'"A {dice.pick(words.JOBS)} works there," said {other}.'),
    ))  # fmt: skip
    return "\n".join((*turns, f'"Thank you, {other}," said {name}.'))


def _facts(dice: Dice) -> str:
    facts = (
        "A week has 7 days.", "A day has 24 hours.", "A year has 12 months.", "One hour has 60 minutes.",
        "A cat has 4 legs.", "A hen has 2 legs.", "A spider has 8 legs.", "An owl sees well at night.",
        "A fence keeps the goats in the field.", "A baker bakes in the early morning.",
        "The pay of a driver is earned by the hour.", "A tray of 12 is a dozen.", "A dead tree has no leaves.",
        f"A {dice.pick(words.JOBS)} works {dice.number(3, 9)} hours a day.",
        f"The {dice.pick(words.VEHICLES)} goes {dice.number(3, 12) * 5} miles each hour.",
        f"The {dice.pick(words.PLACES)} is {dice.number(2, 90)} miles away.",
        f"A book has {dice.number(20, 300)} pages.",
        f"{dice.pick(words.MONTHS)} is a {dice.pick(words.WEATHERS)} month.",
    )  # fmt: skip
    return " ".join(dice.some(facts, dice.number(3, 6)))


def _list(dice: Dice) -> str:
    title = dice.pick(("Shopping", "Things to do", "In the bag", "For the trip", f"Notes of {dice.pick(words.NAMES)}"))
    heading = f"{'#' * dice.number(1, 4)} {title}"
    if dice.chance(0.5):
        heading = f"#### {dice.number(2, 120)} {_thing(dice).many}"
    lines = [f"- {_thing(dice).of(dice.number(1, 40))}" for _ in range(dice.number(2, 5))]
    return "\n".join((heading, *lines, f"#### {dice.number(2, 400)} is the number of the page"))


def _receipt(dice: Dice) -> str:
    lines = [f"{_thing(dice).of(dice.number(1, 20))}: {dice.number(1, 99)} dollars" for _ in range(dice.number(2, 4))]
    thanks = dice.pick(("Thank you!", f"You pay {dice.number(20, 300)} dollars.", "Come back soon."))
    return "\n".join((f"# {dice.pick(words.PLACES).title()} of {dice.pick(words.NAMES)}", *lines, thanks))


def _sums(dice: Dice) -> str:
    return "\n".join(str(_sum(dice, 100)) for _ in range(dice.number(4, 8)))


def _school(dice: Dice) -> str:
    name, other = dice.some(words.NAMES, 2)
    lines = [
        f"{name} writes {_sum(dice)} on the board.",
        f"The teacher reads {_sum(dice)} out loud.",
        f"{other} says that {_sum(dice)} is a good sum.",
        f"It is known that {_sum(dice)}.",
        f"In the book there is {_sum(dice)}, and {other} reads it again.",
    ]
    return f"{'#' * dice.number(1, 4)} School on {dice.pick(words.DAYS)}\n" + "\n".join(
        dice.some(lines, dice.number(2, 4))
    )


def _dictation(dice: Dice) -> str:
    name, other = dice.some(words.NAMES, 2)
    said = [
        dice.pick((
            _thing(dice).of(dice.number(1, 99)),
            str(_sum(dice)),
            f"{dice.pick(words.COLOURS)} {dice.pick(words.CONTAINERS).many}",
            f"{dice.number(1, 99)} dollars for {dice.pick(words.NAMES)}",
            f"the {dice.pick(words.PLACES)} by {dice.pick(words.VEHICLES)}",
        ))
        for _ in range(dice.number(2, 5))
    ]  # fmt: skip
    return f"{name} says: {', '.join(said)}.\n{other} writes: {', '.join(said)}."


def _packing(dice: Dice) -> str:
    lines = [f"- {_thing(dice).of(dice.number(1, 99))}" for _ in range(dice.number(2, 5))]
    mark = "#" * dice.number(1, 4)
    name, other = dice.some(words.NAMES, 2)
    return "\n".join((f"{mark} {name} needs", *lines, f"{mark} {other} has", *lines))


def _ranking(dice: Dice) -> str:
    points, lines = dice.number(60, 99), []
    for place, name in enumerate(dice.some(words.NAMES, dice.number(3, 5)), start=1):
        lines.append(f"#{place} {name} with {points} points")
        points -= dice.number(1, 9)
    return "\n".join((f"#### Race of {dice.pick(words.DAYS)}", *lines))


def _counting(dice: Dice) -> str:
    step, start = dice.pick((1, 1, 2, 3, 5, 10)), dice.number(0, 40)
    return f"{dice.pick(words.NAMES)} counts: " + ", ".join(str(start + step * turn) for turn in range(8)) + "."


def _question(dice: Dice) -> str:
    name, other = dice.some(words.NAMES, 2)
    item, place, box = _thing(dice), dice.pick(words.PLACES), dice.pick(words.CONTAINERS)
    count, colour, day = dice.number(2, 90), dice.pick(words.COLOURS), dice.pick(words.DAYS)
    second, more = _thing(dice), dice.number(2, 90)
    asked, answer = dice.pick((
        (f"{name} has {count} {item.many} in the {place}. Where are the {item.many}?",
         f"The {item.many} are in the {place}."),
        (f"{name} gives a {colour} {box.one} to {other}. Who has the {box.one}?", f"{other} has the {box.one}."),
        (f"{name} sells {item.many} on {day}. What does {name} sell?", f"{name} sells {item.many}."),
        (f"{name} buys {count} {item.many} for {other}. How many {item.many} does {name} buy?",
         f"{name} buys {count} {item.many}."),
        (f"{name} has {count} {item.many} and {more} {second.many}. How many {second.many} does {name} have?",
         f"{name} has {more} {second.many}."),
        (f"{name} finds {count} {item.many} and {other} finds {more}. How many {item.many} does {name} find?",
         f"{name} finds {count} {item.many}."),
        (f"The {box.one} of {name} holds {count} {item.many}. How many {item.many} are in the {box.one}?",
         f"There are {count} {item.many} in the {box.one}."),
        (f"The {box.one} of {name} is {colour}. What colour is it?", f"It is {colour}."),
        (f"{name} works as a {dice.pick(words.JOBS)} on {day}. When does {name} work?", f"{name} works on {day}."),
        (f"{name} pays {count} dollars for one {item.one}. How much does the {item.one} cost?",
         f"The {item.one} costs {count} dollars."),
        (f"{name} plants {dice.pick(words.PLANTS).many} and bakes for {other}. Who bakes?",
         f"{name} bakes for {other}."),
    ))  # fmt: skip
    return f"Question: {asked}\nAnswer: {answer}"


_KINDS: tuple[Callable[[Dice], str], ...] = (
    *(_story, _story, _diary, _diary, _diary, _description, _description, _talk, _facts, _list, _receipt),
    *(_sums, _school, _school, _ranking, _counting, _question, _question, _question, _question),
    *(_dictation, _dictation, _dictation, _packing, _packing),
)
