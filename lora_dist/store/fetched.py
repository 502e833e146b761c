"""What was brought onto this disk before the first run: plain facts, that a child tells and a table shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["fetched", "already there", "made here", "local"]


@dataclass(frozen=True)
class Fetched:
    """What a source takes on this disk."""

    where: str
    """A folder; for what is read from several places, or made up as it is read, a few words."""
    bytes: int | None
    """None where that is not ours to say."""
    state: State


@dataclass(frozen=True)
class Source:
    """A model, data or tokens, that some of the runs read."""

    kind: str
    """model, data or tokens."""
    name: str
    fetched: Fetched
