"""The dataset `symbolic-math`: chains of arithmetic in symbols and in words, worked out one step per line.

`depth` is the number of steps that the answer needs. Held out for test: depth 4. Training and validation have depths
1 to 3, and the test split has about as many of each depth from 1 to 4, so a quarter of it asks whether what was
learned carries on by one more step.
"""

from __future__ import annotations

from lora_dist.corpora.dice import Dice
from lora_dist.corpora.splits import Draft, Splits, deal
from lora_dist.corpora.symbolic_chains import Chain, branching_chain, straight_chain

SIZES = {"train": 1500, "validation": 150, "test": 300}
DEEPEST_TRAINED = 3
_SEED = 34
_DEPTHS = (1, 2, 3) * 3 + (4,)  # with one in three of the others for test, test has about as many of each
_TEST_EVERY = 3

_PHRASES = {
    "+": ("{n} is {l} plus {r}", "{n} is {r} more than {l}", "{n} is the sum of {l} and {r}"),
    "-": ("{n} is {l} minus {r}", "{n} is {r} less than {l}", "{n} is {l} reduced by {r}"),
    "*": ("{n} is {l} times {r}", "{n} is {l} multiplied by {r}", "{n} is the product of {l} and {r}"),
    "/": ("{n} is {l} divided by {r}", "{n} is one of {r} equal parts of {l}", "{n} times {r} is {l}"),
}
_ORDERS = {
    "+": ("Add {r}.", "Increase it by {r}.", "Put {r} on top."),
    "-": ("Subtract {r}.", "Take {r} away.", "Decrease it by {r}."),
    "*": ("Multiply it by {r}.", "Take it {r} times.", "Make it {r} times as large."),
    "/": ("Divide it by {r}.", "Split it into {r} equal parts and keep one.", "Make it {r} times smaller."),
}
_ASKED = ("What is {n}?", "Find {n}.", "Compute {n}.", "What number is {n}?", "Give the value of {n}.")


def symbolic_math(sizes: dict[str, int] = SIZES) -> Splits:
    """The splits of `symbolic-math`; rows have `question`, `answer` (steps, then `#### N`) and `depth` (an int)."""
    return deal(_write, sizes, _SEED, _TEST_EVERY)


def _write(dice: Dice) -> Draft:
    depth = dice.pick(_DEPTHS)
    form = dice.number(0, 4)
    chain = straight_chain(dice, depth) if form < 2 else branching_chain(dice, depth)
    question = (_nested, _ordered, _in_symbols, _backwards, _in_words)[form](dice, chain)
    named = form >= 2
    lines = [f"{step.name} = {step.sum}" if named else str(step.sum) for step in chain.steps]
    answer = "\n".join((*lines, f"#### {chain.steps[-1].sum.value}"))
    return Draft({"question": question, "answer": answer, "depth": depth}, question, depth > DEEPEST_TRAINED)


def _nested(dice: Dice, chain: Chain) -> str:
    """What is (7 * 3) - 4?"""
    (text,) = map(str, chain.givens.values())
    for number, step in enumerate(chain.steps):
        inner = f"({text})" if number else text
        text = f"{inner} {step.sum.sign} {step.right}"
    return dice.pick(("What is {it}?", "Compute {it}.", "Work out {it}.", "How much is {it}?")).format(it=text)


def _ordered(dice: Dice, chain: Chain) -> str:
    """Start with 7. Multiply it by 3. Take 4 away. What do you get?"""
    (start,) = chain.givens.values()
    first = dice.pick(("Start with {it}.", "Take the number {it}.", "You have {it}.", "Write down {it}."))
    orders = [dice.pick(_ORDERS[step.sum.sign]).format(r=step.right) for step in chain.steps]
    last = dice.pick(("What do you get?", "What is the result?", "How much is it now?", "Where do you end?"))
    return " ".join((first.format(it=start), *orders, last))


def _in_symbols(dice: Dice, chain: Chain) -> str:
    """Let a = 7. Let b = a * 3. What is b?"""
    let = dice.pick(("Let ", "Set ", ""))
    return " ".join((*(f"{let}{formula}." for formula in _formulas(chain)), _asked(dice, chain)))


def _backwards(dice: Dice, chain: Chain) -> str:
    """We know that b = a * 3 and a = 7. What is b?"""
    first, *others = _formulas(chain)
    begin = dice.pick(("We know that", "Suppose", "It holds that", "Assume that"))
    return f"{begin} {', '.join(reversed(others))} and {first}. {_asked(dice, chain)}"


def _in_words(dice: Dice, chain: Chain) -> str:
    """Here a is 7. Here b is a times 3. What is b?"""
    begin = dice.pick(("The number ", "Here ", ""))
    phrases = [f"{name} is {value}" for name, value in chain.givens.items()]
    for name, left, right, (_, sign, _, _) in chain.told:
        phrases.append(dice.pick(_PHRASES[sign]).format(n=name, l=left, r=right))
    return " ".join((*(f"{begin}{phrase}." for phrase in phrases), _asked(dice, chain)))


def _formulas(chain: Chain) -> list[str]:
    givens = [f"{name} = {value}" for name, value in chain.givens.items()]
    return givens + [f"{step.name} = {step.left} {step.sum.sign} {step.right}" for step in chain.told]


def _asked(dice: Dice, chain: Chain) -> str:
    return dice.pick(_ASKED).format(n=chain.steps[-1].name)
