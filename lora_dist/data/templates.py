"""data.template: a text with {column} in it. Only plain names: no attributes, no indices, no format codes."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lora_dist.config.problems import nearest
from lora_dist.data.rows import refuse, refuse_one
from lora_dist.errors import Problem

KEY = "data.template"


@dataclass(frozen=True)
class Template:
    """Pieces of text, and the columns between them."""

    pieces: tuple[tuple[str, str | None], ...]
    """(text, the column that follows it or None at the end)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names, each once, in order."""
        return tuple(dict.fromkeys(column for _, column in self.pieces if column is not None))

    def fill(self, values: Mapping[str, str]) -> str:
        """The text for one row."""
        return "".join(text + (values[column] if column is not None else "") for text, column in self.pieces)

    def before(self, column: str) -> Template:
        """What stands before the first placeholder of `column`."""
        kept: list[tuple[str, str | None]] = []
        for text, name in self.pieces:
            if name == column:
                return Template((*kept, (text, None)))
            kept.append((text, name))
        return self

    def followed_by(self, column: str) -> Template:
        """The same with a placeholder of `column` at its end."""
        return Template((*self.pieces, ("", column)))


def parse_template(template: str, roles: Mapping[str, str], columns: Iterable[str]) -> Template:
    """The template of `data.template`; `{{` and `}}` stand for braces.

    Args:
        template: the text.
        roles: role -> column, whose names may be used as well.
        columns: the columns that there are.
    Raises:
        DataError: a brace is not closed, a name is no column, or more than a plain name stands between braces.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        refuse_one(Problem(KEY, f"its braces do not match ({error})", "write {{ and }} for braces that are text"))
    known = list(columns)
    pieces = [(text, None if name is None else roles.get(name, name)) for text, name, _, _ in parsed]
    refuse(_problems(parsed, roles, known))
    if not any(column is not None for _, column in pieces):
        refuse_one(Problem(KEY, "it names no column", f"use {{name}} with one of {', '.join(known)}"))
    return Template(tuple(pieces))


def _problems(
    parsed: Sequence[tuple[str, str | None, str | None, str | None]], roles: Mapping[str, str], known: list[str]
) -> Iterator[Problem]:
    names = list(dict.fromkeys([*known, *(role for role, column in roles.items() if column in known)]))
    for _, name, code, conversion in parsed:
        if name is None:
            continue
        if code or conversion:
            yield Problem(KEY, f"'{{{name}...}}' is more than a plain name", "use {name} without ':' and '!'")
        elif roles.get(name, name) not in known:
            plain = all(sign not in name for sign in ".[")
            what = (
                f"there is no column '{roles.get(name, name)}'" if plain else f"'{{{name}}}' is more than a plain name"
            )
            yield Problem(f"data.columns.{name}" if name in roles else KEY, what, nearest(name, names))
