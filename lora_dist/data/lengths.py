"""How long a row of tokens may be."""

from __future__ import annotations

from dataclasses import dataclass

from lora_dist.config.sections import DataSection
from lora_dist.errors import ConfigError

USUAL_LENGTH = 1024


@dataclass(frozen=True)
class Lengths:
    """Resolved lengths, in tokens."""

    max_length: int
    """No row is longer."""
    block_size: int
    """Tokens per block of running text."""
    context: int | None
    """Positions that the model has, where that is known."""


def resolve_lengths(section: DataSection, context: int | None) -> Lengths:
    """max_length and block_size of a section, for a model with `context` positions (None: unknown).

    Raises:
        ConfigError: max_length is above the context, or block_size above max_length, or a row could hold nothing to
            score.
    """
    max_length = section.max_length or min(USUAL_LENGTH, context or USUAL_LENGTH)
    block_size = section.block_size or max_length
    if context is not None and max_length > context:
        raise ConfigError(
            key="data.max_length",
            problem=f"{max_length} tokens are more than the model's context of {context}",
            fix=f"give at most {context}, or null for {min(USUAL_LENGTH, context)}",
        )
    for key, given in (("data.max_length", max_length), ("data.block_size", block_size)):
        if given < 2:
            raise ConfigError(
                key=key, problem="a row of 1 token has nothing to score (no token predicts it)", fix="give at least 2"
            )
    if section.task == "causal_lm" and block_size > max_length:
        raise ConfigError(
            key="data.block_size",
            problem=f"{block_size} tokens are more than max_length ({max_length})",
            fix=f"give at most {max_length}, or raise data.max_length",
        )
    return Lengths(max_length, block_size, context)
