"""The kinds of arithmetic word problems: what each asks and how each is worked out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lora_dist.corpora.arithmetic import minus, over, plus, times
from lora_dist.corpora.dice import Dice
from lora_dist.corpora.words import (
    AREAS,
    BAKED,
    CONTAINERS,
    ITEMS,
    JOBS,
    NAMES,
    PLACES,
    PLANTS,
    VEHICLES,
    Noun,
)


class Problem(NamedTuple):
    """A question, the lines of its worked solution, and the result."""

    question: str
    lines: Sequence[str]
    result: int


class Kind(NamedTuple):
    """A kind of problem: `write(dice, subject)` makes one about one of its `subjects`."""

    write: Callable[[Dice, object], Problem]
    subjects: Sequence[object]


def _packed(dice: Dice, item: Noun) -> Problem:
    name, box, count, each = dice.pick(NAMES), dice.pick(CONTAINERS), dice.number(2, 9), dice.number(3, 12)
    total = times(count, each)
    question = dice.pick((
        f"{name} buys {count} {box.many} of {item.many}. Each {box.one} holds {each} {item.many}. "
        f"How many {item.many} does {name} buy?",
        f"Each {box.one} holds {each} {item.many}. {name} has {count} {box.many}. "
        f"How many {item.many} does {name} have?",
    ))  # fmt: skip
    return Problem(question, [f"The {count} {box.many} hold {total} {item.many}."], total.value)


def _packed_and_loose(dice: Dice, item: Noun) -> Problem:
    name, box, count, each = dice.pick(NAMES), dice.pick(CONTAINERS), dice.number(2, 9), dice.number(3, 9)
    loose = dice.number(2, 20)
    packed = times(count, each)
    total = plus(packed.value, loose)
    question = (
        f"{name} has {count} {box.many} with {each} {item.many} in each {box.one}, and {loose} more {item.many} "
        f"on the table. How many {item.many} does {name} have in total?"
    )
    lines = [f"The {count} {box.many} hold {packed} {item.many}.", f"In total {name} has {total} {item.many}."]
    return Problem(question, lines, total.value)


def _change(dice: Dice, item: Noun) -> Problem:
    name, count, price = dice.pick(NAMES), dice.number(2, 9), dice.number(2, 9)
    cost = times(count, price)
    change = minus(cost.value + dice.number(2, 40), cost.value)
    question = dice.pick((
        f"{name} buys {count} {item.many}. One {item.one} costs {price} dollars. {name} pays with {change.left} "
        f"dollars. How many dollars does {name} get back?",
        f"One {item.one} costs {price} dollars. {name} has {change.left} dollars and buys {count} {item.many}. "
        f"How many dollars are left?",
    ))  # fmt: skip
    lines = [f"The {item.many} cost {cost} dollars.", f"{name} has {change} dollars left."]
    return Problem(question, lines, change.value)


def _shared(dice: Dice, item: Noun) -> Problem:
    (name, other), friends = dice.some(NAMES, 2), dice.number(2, 8)
    each = dice.number(2, 12)
    mine = dice.number(1, friends * each - 1)
    total = plus(mine, friends * each - mine)
    share = over(total.value, friends)
    question = (
        f"{name} finds {item.of(mine)} and {other} finds {item.of(total.right)}. They share them equally among "
        f"{friends} friends. How many {item.many} does each friend get?"
    )
    lines = [f"Together they find {total} {item.many}.", f"Each friend gets {share} {item.many}."]
    return Problem(question, lines, share.value)


def _given_away(dice: Dice, item: Noun) -> Problem:
    (name, first, second), start = dice.some(NAMES, 3), dice.number(20, 90)
    once = minus(start, dice.number(2, 9))
    twice = minus(once.value, dice.number(2, 9))
    question = (
        f"{name} has {start} {item.many}. {name} gives {once.right} {item.many} to {first} and {twice.right} "
        f"{item.many} to {second}. How many {item.many} does {name} have left?"
    )
    lines = [f"After {first} there are {once} {item.many}.", f"After {second} there are {twice} {item.many}."]
    return Problem(question, lines, twice.value)


def _several_times(dice: Dice, item: Noun) -> Problem:
    (name, other), mine, factor = dice.some(NAMES, 2), dice.number(2, 15), dice.number(2, 5)
    theirs = times(factor, mine)
    total = plus(mine, theirs.value)
    question = (
        f"{name} has {mine} {item.many}. {other} has {factor} times as many. "
        f"How many {item.many} do they have together?"
    )
    lines = [f"{other} has {theirs} {item.many}.", f"Together they have {total} {item.many}."]
    return Problem(question, lines, total.value)


def _sold(dice: Dice, item: Noun) -> Problem:
    name, morning, evening, price = dice.pick(NAMES), dice.number(2, 20), dice.number(2, 20), dice.number(2, 6)
    count = plus(morning, evening)
    earned = times(count.value, price)
    question = (
        f"{name} sells {morning} {item.many} in the morning and {evening} {item.many} in the evening. Each "
        f"{item.one} costs {price} dollars. How many dollars does {name} earn?"
    )
    lines = [f"{name} sells {count} {item.many}.", f"{name} earns {earned} dollars."]
    return Problem(question, lines, earned.value)


def _boxes_needed(dice: Dice, item: Noun) -> Problem:
    name, box, each, count = dice.pick(NAMES), dice.pick(CONTAINERS), dice.number(2, 9), dice.number(2, 9)
    broken = dice.number(1, 9)
    whole = minus(each * count + broken, broken)
    boxes = over(whole.value, each)
    question = (
        f"{name} has {whole.left} {item.many}, but {broken} of them {'is' if broken == 1 else 'are'} broken. {name} "
        f"puts {each} good {item.many} in each {box.one}. How many {box.many} does {name} fill?"
    )
    lines = [f"There are {whole} good {item.many}.", f"{name} fills {boxes} {box.many}."]
    return Problem(question, lines, boxes.value)


def _trip(dice: Dice, vehicle: str) -> Problem:
    name, place, speed, hours = dice.pick(NAMES), dice.pick(PLACES), dice.number(3, 12) * 5, dice.number(2, 5)
    driven = times(speed, hours)
    left = minus(driven.value + dice.number(5, 60), driven.value)
    question = (
        f"{name} goes by {vehicle} to a {place} {left.left} miles away. The {vehicle} goes {speed} miles each hour. "
        f"How many miles are left after {hours} hours?"
    )
    lines = [f"In {hours} hours the {vehicle} goes {driven} miles.", f"Then {left} miles are left."]
    return Problem(question, lines, left.value)


def _wages(dice: Dice, job: str) -> Problem:
    name, pay, hours, days = dice.pick(NAMES), dice.number(5, 12), dice.number(2, 8), dice.number(2, 6)
    worked = times(days, hours)
    earned = times(worked.value, pay)
    question = (
        f"{name} works as a {job} for {days} days, {hours} hours each day. The pay is {pay} dollars for one hour. "
        f"How many dollars does {name} earn?"
    )
    lines = [f"{name} works {worked} hours.", f"{name} earns {earned} dollars."]
    return Problem(question, lines, earned.value)


def _reading(dice: Dice, place: str) -> Problem:
    name, pages, days, later = dice.pick(NAMES), dice.number(4, 20), dice.number(2, 7), dice.number(3, 30)
    read = times(days, pages)
    more = plus(read.value, later)
    left = minus(more.value + dice.number(5, 60), more.value)
    question = (
        f"A book from the {place} has {left.left} pages. {name} reads {pages} pages a day for {days} days and then "
        f"{later} more pages. How many pages are left?"
    )
    lines = [
        f"In {days} days {name} reads {read} pages.",
        f"With the others it is {more} pages.",
        f"Then {left} pages are left.",
    ]
    return Problem(question, lines, left.value)


def _rows(dice: Dice, plant: Noun) -> Problem:
    name, rows, each = dice.pick(NAMES), dice.number(2, 9), dice.number(4, 12)
    planted = times(rows, each)
    alive = minus(planted.value, dice.number(1, 6))
    question = (
        f"{name} plants {rows} rows of {plant.many} with {each} {plant.many} in each row. After a cold night "
        f"{plant.of(alive.right)} {'is' if alive.right == 1 else 'are'} dead. How many {plant.many} are left?"
    )
    lines = [f"{name} plants {planted} {plant.many}.", f"Then {alive} {plant.many} are left."]
    return Problem(question, lines, alive.value)


def _baking(dice: Dice, baked: Noun) -> Problem:
    name, trays, friends = dice.pick(NAMES), dice.number(2, 6), dice.number(2, 6)
    each = dice.number(2, 8)
    eaten = dice.number(1, 5)
    total = times(trays, 12)
    while (total.value - eaten) % friends:  # the friends' shares must come out even
        eaten += 1
    left = minus(total.value, eaten)
    share = over(left.value, friends)
    cost = times(share.value, each)
    question = (
        f"{name} bakes {trays} trays of {baked.many}, 12 on each tray, and eats {eaten}. Then {friends} friends buy "
        f"the others, all equally many. One {baked.one} costs {each} dollars. How many dollars does each friend pay?"
    )
    lines = [
        f"{name} bakes {total} {baked.many}.",
        f"Then {left} {baked.many} are left.",
        f"Each friend buys {share} {baked.many}.",
        f"Each friend pays {cost} dollars.",
    ]
    return Problem(question, lines, cost.value)


def _stops(dice: Dice, vehicle: str) -> Problem:
    place, start = dice.pick(PLACES), dice.number(12, 50)
    fewer = minus(start, dice.number(2, 10))
    more = plus(fewer.value, dice.number(2, 20))
    question = (
        f"There are {start} people waiting for a {vehicle}. At the {place}, {fewer.right} people go home and "
        f"{more.right} new people come. How many people are waiting now?"
    )
    lines = [f"First there are {fewer} people.", f"Now there are {more} people."]
    return Problem(question, lines, more.value)


def _fence(dice: Dice, area: str) -> Problem:
    name, long, wide, price = dice.pick(NAMES), dice.number(6, 20), dice.number(2, 12), dice.number(2, 5)
    half = plus(long, wide)
    around = times(2, half.value)
    cost = times(around.value, price)
    question = (
        f"{name} builds a fence around a {area} that is {long} metres long and {wide} metres wide. One metre of "
        f"fence costs {price} dollars. How many dollars does the fence cost?"
    )
    lines = [
        f"Half of the fence is {half} metres.",
        f"The fence is {around} metres.",
        f"It costs {cost} dollars.",
    ]
    return Problem(question, lines, cost.value)


def _savings(dice: Dice, item: Noun) -> Problem:
    name, start, weekly, weeks = dice.pick(NAMES), dice.number(5, 40), dice.number(2, 9), dice.number(2, 9)
    saved = times(weeks, weekly)
    total = plus(start, saved.value)
    left = minus(total.value, dice.number(2, total.value - 2))
    question = (
        f"{name} has {start} dollars and saves {weekly} dollars a week for {weeks} weeks. Then {name} buys a box of "
        f"{item.many} for {left.right} dollars. How many dollars are left?"
    )
    lines = [f"{name} saves {saved} dollars.", f"{name} has {total} dollars.", f"Then {left} dollars are left."]
    return Problem(question, lines, left.value)


KINDS: tuple[Kind, ...] = (
    *(Kind(write, ITEMS) for write in (_packed, _packed_and_loose, _change, _shared, _given_away, _several_times)),
    *(Kind(write, ITEMS) for write in (_sold, _boxes_needed, _savings)),
    Kind(_trip, VEHICLES),
    Kind(_stops, VEHICLES),
    Kind(_wages, JOBS),
    Kind(_reading, PLACES),
    Kind(_rows, PLANTS),
    Kind(_baking, BAKED),
    Kind(_fence, AREAS),
)
