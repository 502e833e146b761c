"""What is known of a run that did not end well: who was the first to fail, where, how far it was, its last words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FailureReport:
    """Where to look, for a run that a cluster's job did not bring to its end."""

    rank: int | None
    """The first that failed; None where nobody has said which."""
    node: str
    """Its machine, or the one that failed; empty where it is not known."""
    stage: str
    step: int
    steps: int
    """`step` of `steps` of the stage; 0 where they are not known."""
    cause: str
    """In a word: failed, refused, out_of_memory, killed, rank_lost, node_fail, timeout, dependency, ..."""
    lines: tuple[str, ...]
    """The last ones of `log`, without control characters."""
    log: str
    """That rank's log, or its job's; empty where there is none."""

    def document(self) -> dict[str, Any]:
        """It for JSON."""
        return vars(self) | {"lines": list(self.lines)}
