"""The ways in which a plan changes in the dataset `dialogues`: what is said, and what comes of it.

Half of the time the first way out is turned down too, and only the second one holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lora_dist.corpora import words
from lora_dist.corpora.dialogue_words import (
    ACTIVITIES,
    AGREED,
    ERRANDS,
    FLAWS,
    HALT,
    HINDRANCES,
    MOODS,
    OFFERED_PLACES,
    OFFERS,
    THANKS,
    TIMES,
    WILL,
    Activity,
)
from lora_dist.corpora.dice import Dice


class Plan(NamedTuple):
    """Who does what, where and when."""

    people: tuple[str, ...]
    activity: Activity
    place: str
    day: str
    time: str

    def __str__(self) -> str:
        *others, last = self.people
        return f"{', '.join(others)} and {last} will {self.activity.do} {self.place} on {self.day} at {self.time}."


class Talk(NamedTuple):
    """Where a talk stands when somebody wants something else."""

    plan: Plan
    me: str
    """Who speaks next."""
    you: str


class Change(NamedTuple):
    """How a plan changes."""

    lines: list[str]
    """What the two say in turn, from the one who wants something else."""
    summary: str


def _other_day(dice: Dice, talk: Talk) -> Change:
    plan, me, _ = talk
    (day, later), (errand, second) = _others(dice, words.DAYS, plan.day), dice.some(ERRANDS, 2)
    lines = [f"{dice.pick(HALT)} on {plan.day} I have to {errand}. {_how_about(dice, day)}"]
    if dice.chance(0.5):
        lines.append(f"On {day} I have to {second}. {_how_about(dice, later)}")
        day = later
    lines.append(dice.pick(AGREED))
    return Change(lines, f"{plan._replace(day=day)} On {plan.day} {me} has to {errand}.")


def _other_time(dice: Dice, talk: Talk) -> Change:
    plan, me, _ = talk
    (time, later), (errand, second) = _others(dice, TIMES, plan.time), dice.some(ERRANDS, 2)
    lines = [f"{dice.pick(HALT)} at {plan.time} I have to {errand}. {_how_about(dice, time)}"]
    if dice.chance(0.5):
        lines.append(f"At {time} I have to {second}. {_how_about(dice, later)}")
        time = later
    lines.append(dice.pick(AGREED))
    return Change(lines, f"{plan._replace(time=time)} At {plan.time} {me} has to {errand}.")


def _other_place(dice: Dice, talk: Talk) -> Change:
    plan = talk.plan
    place, second = _others(dice, plan.activity.places, plan.place)
    flaw, another = dice.some(FLAWS, 2)
    lines = [f"{dice.pick(HALT)} it is {flaw} {plan.place}. {dice.pick(OFFERED_PLACES).format(it=place)}"]
    if dice.chance(0.5):
        lines.append(f"It is {another} {place}. {dice.pick(OFFERED_PLACES).format(it=second)}")
        place = second
    lines.append(dice.pick(AGREED))
    return Change(lines, f"{plan._replace(place=place)} It is {flaw} {plan.place}.")


def _other_activity(dice: Dice, talk: Talk) -> Change:
    plan, me, _ = talk
    activity, second = _others(dice, ACTIVITIES, plan.activity)
    (own, theirs, mood), (your_own, _, your_mood) = dice.some(MOODS, 2)
    place = dice.pick(activity.places)
    lines = [f"{dice.pick(HALT)} I {own} {mood}. Could we {activity.do} {place}?"]
    if dice.chance(0.5):
        activity, place = second, dice.pick(second.places)
        lines.append(f"I {your_own} {your_mood}. Better {activity.do} {place}.")
    lines.append(dice.pick(AGREED))
    changed = plan._replace(activity=activity, place=place)
    return Change(lines, f"{changed} {me} does not want to {plan.activity.do}, because {me} {theirs} {mood}.")


def _somebody_else(dice: Dice, talk: Talk) -> Change:
    plan, me, you = talk
    name, second = _strangers(dice, plan)
    errand = dice.pick(ERRANDS)
    lines = [f"{dice.pick(HALT)} on {plan.day} I have to {errand}. {name} could go instead of me."]
    if dice.chance(0.5):
        lines += [f"But {name} has to {dice.pick(ERRANDS)}.", f"Then take {second}."]
        name = second
    lines.append(dice.pick(AGREED))
    return Change(lines, f"{plan._replace(people=(you, name))} {me} has to {errand}.")


def _one_more(dice: Dice, talk: Talk) -> Change:
    plan = talk.plan
    name, second = _strangers(dice, plan)
    lines = [dice.pick((f"Can {name} come too?", f"I will ask {name} too.", f"Let us invite {name}."))]
    if dice.chance(0.5):
        lines += [f"{name} is never on time. I would rather have {second} with us.", dice.pick(AGREED)]
        name = second
    else:
        lines.append(dice.pick(AGREED))
    return Change(lines, str(plan._replace(people=(*plan.people, name))))


def _brought_by_another(dice: Dice, talk: Talk) -> Change:
    plan, me, you = talk
    thing, (own, theirs, hindrance) = plan.activity.thing, dice.pick(HINDRANCES)
    lines = [
        f"I will bring {thing}.",
        dice.pick(THANKS),
        f"{dice.pick(HALT)} I {own} {hindrance}. Can you bring {thing}?",
    ]
    brings = you
    if dice.chance(0.5):
        brings, _ = _strangers(dice, plan)
        lines += [f"I cannot either. I will ask {brings}.", dice.pick(THANKS)]
    else:
        lines.append(dice.pick(WILL))
    return Change(lines, f"{plan} {brings} brings {thing}, because {me} {theirs} {hindrance}.")


def _called_off(dice: Dice, talk: Talk) -> Change:
    plan, me, _ = talk
    day, _ = _others(dice, words.DAYS, plan.day)
    both = " and ".join(plan.people)
    errand, another = dice.some(ERRANDS, 2)
    lines = [f"{dice.pick(HALT)} on {plan.day} I have to {errand}."]
    if dice.chance(0.5):
        lines += [_how_about(dice, day), f"Then I have to {another}."]
    lines.append(dice.pick(("Then let us drop it.", "Another time then.", "Then we call it off.")))
    return Change(lines, f"{both} will not {plan.activity.do}, because {me} has to {errand} on {plan.day}.")


def _others(dice: Dice, choices: Sequence[Any], known: Any) -> list[Any]:
    """Two different ones of `choices`, neither of them `known`."""
    return dice.some([choice for choice in choices if choice != known], 2)


def _strangers(dice: Dice, plan: Plan) -> list[str]:
    return dice.some([name for name in words.NAMES if name not in plan.people], 2)


def _how_about(dice: Dice, what: str) -> str:
    return dice.pick(OFFERS).format(it=what)


CHANGES: tuple[Callable[[Dice, Talk], Change], ...] = (
    _other_day,
    _other_time,
    _other_place,
    _other_activity,
    _somebody_else,
    _one_more,
    _brought_by_another,
    _called_off,
)
