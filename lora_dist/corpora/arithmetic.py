"""Sums as the built-in texts write them."""

from __future__ import annotations

from typing import NamedTuple


class Sum(NamedTuple):
    """One sum, which prints as `3 * 4 = 12`."""

    left: int
    sign: str
    right: int
    value: int

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.value}"


def plus(left: int, right: int) -> Sum:
    """`left + right`."""
    return Sum(left, "+", right, left + right)


def minus(left: int, right: int) -> Sum:
    """`left - right`."""
    return Sum(left, "-", right, left - right)


def times(left: int, right: int) -> Sum:
    """`left * right`."""
    return Sum(left, "*", right, left * right)


def over(left: int, right: int) -> Sum:
    """`left / right`, which must come out even."""
    return Sum(left, "/", right, left // right)
