"""Chains of arithmetic that a reader of the questions works out again, without looking at the answers."""

from __future__ import annotations

import ast
import operator
import re
from collections import Counter
from fractions import Fraction

import pytest

from lora_dist.corpora.registry import load

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
SIDE = r"(\d+|\b[a-z]\b)"
PHRASES = {  # how each is written as a formula for the first, second, third thing that it names
    rf"{SIDE} is {SIDE} plus {SIDE}": "{1} + {2}",
    rf"{SIDE} is {SIDE} more than {SIDE}": "{2} + {1}",
    rf"{SIDE} is the sum of {SIDE} and {SIDE}": "{1} + {2}",
    rf"{SIDE} is {SIDE} minus {SIDE}": "{1} - {2}",
    rf"{SIDE} is {SIDE} less than {SIDE}": "{2} - {1}",
    rf"{SIDE} is {SIDE} reduced by {SIDE}": "{1} - {2}",
    rf"{SIDE} is {SIDE} times {SIDE}": "{1} * {2}",
    rf"{SIDE} is {SIDE} multiplied by {SIDE}": "{1} * {2}",
    rf"{SIDE} is the product of {SIDE} and {SIDE}": "{1} * {2}",
    rf"{SIDE} is {SIDE} divided by {SIDE}": "{1} / {2}",
    rf"{SIDE} is one of {SIDE} equal parts of {SIDE}": "{2} / {1}",
    rf"{SIDE} times {SIDE} is {SIDE}": "{2} / {1}",
    rf"{SIDE} is {SIDE}": "{1}",
}
ORDERS = {
    r"Add (\d+)|Increase it by (\d+)|Put (\d+) on top": "+",
    r"Subtract (\d+)|Take (\d+) away|Decrease it by (\d+)": "-",
    r"Multiply it by (\d+)|Take it (\d+) times|Make it (\d+) times as large": "*",
    r"Divide it by (\d+)|Split it into (\d+) equal parts and keep one|Make it (\d+) times smaller": "/",
}


def evaluate(formula, definitions):
    """The exact value of a formula over named definitions."""

    def of(node):
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](of(node.left), of(node.right))
        return evaluate(definitions[node.id], definitions) if isinstance(node, ast.Name) else Fraction(node.value)

    return of(ast.parse(formula, mode="eval").body)


def worked_out(question):
    """The result of a question and how many steps it needs."""
    *_, asked = re.split(r"(?<=[.]) ", question)
    if asked_for := re.fullmatch(r"[A-Za-z ]*\b([a-z])[.?]", asked):
        definitions = definitions_of(question.removesuffix(asked))
        needed, todo = set(), [asked_for[1]]
        while todo:
            name = todo.pop()
            if name not in needed:
                needed.add(name)
                todo += re.findall(r"\b[a-z]\b", definitions[name])
        steps = sum(bool(re.search(r"[-+*/]", definitions[name])) for name in needed)
        return evaluate(asked_for[1], definitions), steps
    if formula := re.fullmatch(r"[A-Z][a-z ]+ ([-+*/() \d]+)[.?]", question):
        return evaluate(formula[1], {}), len(re.findall(r"[-+*/]", formula[1]))
    first, *orders, _ = re.split(r"(?<=[.]) ", question)
    formula = re.search(r"\d+", first)[0]
    for order in orders:
        sign, found = next((sign, m) for way, sign in ORDERS.items() if (m := re.fullmatch(rf"(?:{way})\.", order)))
        formula = f"({formula}) {sign} {found[found.lastindex]}"
    return evaluate(formula, {}), len(orders)


def definitions_of(told):
    """name -> formula."""
    if "=" in told:
        formulas = re.findall(r"\b([a-z]) = ([-+*/ \da-z]*?)(?=[.,]| and )", told)
        return dict(formulas)
    found = {}
    for sentence in re.sub(r"The number |Here ", "", told).strip(" .").split(". "):
        phrase, parts = next((way, m.groups()) for way in PHRASES if (m := re.fullmatch(way, sentence)))
        found[parts[0]] = PHRASES[phrase].format(*parts)
    return found


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_answer_ends_in_what_the_question_comes_to_after_as_many_steps_as_its_depth(split):
    for row in load("symbolic-math")[split]:
        result, steps = worked_out(row["question"])
        assert row["answer"].split("\n")[-1] == f"#### {result}", row
        assert steps == row["depth"], row


def test_every_line_of_an_answer_is_right_and_uses_the_line_before():
    step = re.compile(r"(?:[a-z] = )?(\d+) ([-+*/]) (\d+) = (\d+)")
    signs = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": Fraction}
    for row in (row for rows in load("symbolic-math").values() for row in rows):
        *lines, last = row["answer"].split("\n")
        assert len(lines) == row["depth"]
        before = None
        for left, sign, right, value in (step.fullmatch(line).groups() for line in lines):
            assert signs[sign](int(left), int(right)) == int(value), row
            assert before in (None, left, right), row
            before = value
        assert last == f"#### {before}"


def test_depth_4_is_only_in_the_test_split_which_has_about_as_many_of_each():
    depths = {split: Counter(row["depth"] for row in rows) for split, rows in load("symbolic-math").items()}
    assert depths["train"].keys() == depths["validation"].keys() == {1, 2, 3}
    assert depths["test"].keys() == {1, 2, 3, 4}
    assert min(depths["test"].values()) > 50
    assert min(depths["train"].values()) > 400


def test_some_definitions_are_not_needed_and_some_variables_are_used_twice():
    named = re.compile(r"\b[a-z] (=|is)")
    questions = [row["question"] for row in load("symbolic-math")["train"] if named.search(row["question"])]
    spare = twice = 0
    for question in questions:
        *_, asked = re.split(r"(?<=[.]) ", question)
        definitions = definitions_of(question.removesuffix(asked))
        used = Counter(name for formula in definitions.values() for name in re.findall(r"\b[a-z]\b", formula))
        spare += bool(definitions.keys() - used.keys() - {re.findall(r"\b[a-z]\b", asked)[-1]})
        twice += max(used.values()) > 1
    assert 0.1 < spare / len(questions) < 0.7
    assert 0.1 < twice / len(questions) < 0.7
