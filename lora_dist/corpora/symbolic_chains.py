"""Chains of arithmetic for the dataset `symbolic-math`: every step needs the one before it."""

from __future__ import annotations

from typing import NamedTuple

from lora_dist.corpora.arithmetic import Sum, minus, over, plus, times
from lora_dist.corpora.dice import Dice

_LETTERS = "abcdefghjkmnpqrstuvwxyz"  # neither i nor l nor o, which look like digits


class Definition(NamedTuple):
    """A variable and how it comes from others; the sides are names or numbers as the question writes them."""

    name: str
    left: str
    right: str
    sum: Sum


class Chain(NamedTuple):
    """Given variables, and the steps that lead from them to the last one, which is asked for."""

    givens: dict[str, int]
    steps: list[Definition]
    told: list[Definition]
    """The steps, and perhaps a definition among them that nothing needs."""


def straight_chain(dice: Dice, depth: int) -> Chain:
    """Each step does something with the result of the step before it and a number that stands on the right."""
    names = _names(dice, depth + 1)
    start = dice.number(2, 40)
    steps, last, value = [], names[0], start
    for name in names[1:]:
        steps.append(_with_number(dice, name, last, value))
        last, value = name, steps[-1].sum.value
    return Chain({names[0]: start}, steps, steps)


def branching_chain(dice: Dice, depth: int) -> Chain:
    """Steps may use any earlier variable too, and some variables may not be needed."""
    *names, other, spare = _names(dice, depth + 3)
    values = {names[0]: dice.number(2, 40)}
    if dice.chance(0.4):
        values[other] = dice.number(2, 40)
    givens, steps, told, last = dict(values), [], [], names[0]
    aside_after = dice.number(0, 3 * depth)  # beyond the last step: none
    for turn, name in enumerate(names[1:]):
        if turn == aside_after:
            told.append(_step(dice, spare, dice.pick(list(values)), values))
        steps.append(_step(dice, name, last, values))
        told.append(steps[-1])
        values[name] = steps[-1].sum.value
        last = name
    return Chain(givens, steps, told)


def _step(dice: Dice, name: str, last: str, values: dict[str, int]) -> Definition:
    value, earlier = values[last], [known for known in values if known != last]
    if earlier and dice.chance(0.4):
        return _with_variable(dice, name, (last, value), dice.pick(earlier), values)
    if value < 60 and dice.chance(0.2):
        whole = value + dice.number(1, 40)
        return Definition(name, str(whole), last, minus(whole, value))
    return _with_number(dice, name, last, value)


def _with_variable(dice: Dice, name: str, last: tuple[str, int], other: str, values: dict[str, int]) -> Definition:
    (last_name, value), right = last, values[other]
    sums = [plus(value, right)]
    if right < value:
        sums.append(minus(value, right))
    if value * right <= 400:
        sums.append(times(value, right))
    return Definition(name, last_name, other, dice.pick(sums))


def _with_number(dice: Dice, name: str, last: str, value: int) -> Definition:
    sums = [plus(value, dice.number(2, 40))]
    if value > 4:
        sums.append(minus(value, dice.number(2, value - 1)))
    if value <= 60:
        sums.append(times(value, dice.number(2, 6)))
    divisors = [divisor for divisor in range(2, 10) if value % divisor == 0 and divisor < value]
    if divisors:
        sums.append(over(value, dice.pick(divisors)))
    chosen = dice.pick(sums)
    return Definition(name, last, str(chosen.right), chosen)


def _names(dice: Dice, count: int) -> list[str]:
    """Letters in the order of the alphabet, from any on, or in no order."""
    if dice.chance(0.5):
        start = dice.number(0, len(_LETTERS) - count)
        return list(_LETTERS[start : start + count])
    return dice.some(_LETTERS, count)
