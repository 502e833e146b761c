"""What an answer says: its last number, its words, and how many steps a worked solution has."""

from __future__ import annotations

import re
import string
from decimal import Decimal, InvalidOperation

FINAL_MARK = "####"
"""GSM8K's sign before the final number (arXiv 2110.14168)."""
_MOST_DIGITS = 400
"""Of a number that is read: generated text can repeat a digit without end."""
_NUMBER = re.compile(r"[-\u2212]?(?:\d{1,3}(?:[,\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|[-\u2212]?\.\d+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def final_number(text: str) -> Decimal | None:
    """The number that an answer ends with: the first after the last `####`, else the last of all; None without any.

    Thousands separators, currency, units and a full stop around it do not count: "$1,234.50" is 1234.5. A hyphen is a
    minus unless a digit or a letter stands right before it ("3-5" is 3 and 5). Fractions are two numbers, of which the
    last counts.
    """
    _, mark, after = text.rpartition(FINAL_MARK)
    if mark and (found := _numbers(after)):
        return found[0]
    found = _numbers(text)
    return found[-1] if found else None


def _numbers(text: str) -> list[Decimal]:
    found = []
    for match in _NUMBER.finditer(text):
        number = match.group().replace(",", "").replace("\u202f", "").replace("\u2212", "-")
        if number.startswith("-") and match.start() and text[match.start() - 1].isalnum():
            number = number[1:]
        if len(number) <= _MOST_DIGITS:
            try:
                found.append(Decimal(number))
            except InvalidOperation:  # digits of another script
                continue
    return found


def is_same_number(prediction: str, reference: str) -> bool:
    """Whether both end with the same number, as decimals (3.50 is 3.5); words where the reference has no number."""
    expected = final_number(reference)
    if expected is None:
        return normalised(prediction) == normalised(reference)
    return final_number(prediction) == expected


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, one space between words (SQuAD's rule, arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def steps_of(solution: str) -> int:
    """How many steps a worked solution has: its lines with something on them before `####`."""
    before, _, _ = solution.partition(FINAL_MARK)
    return sum(bool(line.strip()) for line in before.splitlines())
