"""`--adapters A B C`: options that take all the words after them, which click's options do not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import typer
import typer.core

_OPTION = re.compile(r"-\S+")
"""A word that begins another option. A lone dash is none, and neither is a text such as "- item one"."""


class SeveralWords(typer.core.TyperCommand):
    """A command whose list options take every word up to the next option, beside being given again and again.

    Before click parses a command line, `--adapters A B --prompt x` becomes `--adapters A --adapters B --prompt x`:
    nothing else of click is changed. `--` ends a list as it ends all options, so what follows are arguments;
    `--prompt=-5` takes the one text after the sign, whatever it begins with.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> Any:
        """Parse the command line (see the class)."""
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        try:
            args = list(spread(args, several))
        except LookupError as error:
            ctx.fail(f"Option '{error.args[0]}' requires an argument.")
        return super().parse_args(ctx, args)


def spread(args: Sequence[str], several: Collection[str]) -> Iterator[str]:
    """`args` with each option of `several` written before every word that it takes.

    Raises:
        LookupError: an option has no word; it is the error's argument.
    """
    end = args.index("--") if "--" in args else len(args)
    number = 0
    while number < end:
        option = args[number]
        number += 1
        if option not in several:
            yield option
            continue
        first = number
        while number < end and not _OPTION.fullmatch(args[number]):
            yield from (option, args[number])
            number += 1
        if number == first:
            raise LookupError(option)
    yield from args[end:]
