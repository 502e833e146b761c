"""The prune section: which weights are set to zero, and by what."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from lora_dist.config.sections import DataSection, Fraction, Positive, Section, Text, Whole, WholeOrZero

PruneKind = Literal["sparsegpt", "wanda", "magnitude"]
PruneMode = Literal["exact", "dense_inputs"]


def _some_are_kept(value: Any) -> Any:
    """2:4 leaves two of four; 4:2 and 4:4 leave nothing, and 0:4 prunes nothing."""
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]+):([0-9]+)", value)
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ValueError(f"'{value}' is no N:M pattern, N zeros in every M weights with 0 < N < M, such as 2:4")
    return value


def parse_pattern(pattern: str) -> tuple[int, int]:
    """The two numbers of an N:M pattern: N zeros in every group of M."""
    zeros, group = pattern.split(":")
    return int(zeros), int(group)


Pattern = Annotated[str, BeforeValidator(_some_are_kept)]


class CalibrationSection(Section):
    """The text that tells which weights matter: samples x length tokens, laid end to end."""

    samples: Whole = 128
    """How many sequences."""
    length: Whole | None = None
    """Tokens per sequence; null is 2048 or the model's context, whichever is smaller."""
    data: DataSection | None = None
    """Where the tokens come from: the train split of this data; null takes the experiment's own."""
    shuffle: bool = False
    """Take rows in a random order instead of the first ones."""
    seed: WholeOrZero = 0
    """Of that order."""


class PruneSection(Section):
    """Which weights of the decoder blocks' linears are set to zero. Embeddings and head are never pruned. Settings that
    a kind does not use are ignored when inherited and refused when given to it."""

    kind: PruneKind = "sparsegpt"
    """sparsegpt: second-order, what is left makes up for what is gone (arXiv 2301.00774). wanda: |weight| x norm of its
    input, no update (arXiv 2306.11695). magnitude: |weight| alone, no data."""
    sparsity: Fraction | None = None
    """Share of each linear's weights that is set to zero, from 0 to below 1. Give this or `pattern`."""
    pattern: Pattern | None = None
    """N:M, such as "2:4": N zeros in every M neighbouring inputs of an output."""
    mode: PruneMode = "exact"
    """exact: a block sees what the pruned blocks before it put out. dense_inputs: what the dense ones did; blocks then
    do not depend on each other and `--blocks` deals them to machines, but it is an approximation."""
    overrides: dict[Text, Fraction | Pattern] = {}
    """Another sparsity or pattern for some linears, by name or end of name: {down_proj: 0.3, layers.0.mlp.up_proj: 0}.
    The longest name that fits wins."""
    skip: list[Text] = []
    """Linears that stay dense, by name or end of name."""
    dense_first: WholeOrZero = 0
    """How many of the first blocks stay dense."""
    dense_last: WholeOrZero = 0
    """How many of the last blocks stay dense."""
    damping: Positive = 0.01
    """sparsegpt: added to the Hessian's diagonal, as a share of its mean. Raised tenfold, and said, where that is not
    enough."""
    block_size: Whole = 128
    """sparsegpt: columns among which the smallest are chosen at a time (rounded to whole groups of a pattern)."""
    calibration: CalibrationSection = CalibrationSection()
    """sparsegpt, wanda: the tokens that are sent through the model."""

    @model_validator(mode="after")
    def _one_of_both(self) -> PruneSection:
        if (self.sparsity is None) == (self.pattern is None):
            both = "both are given" if self.pattern else "neither is given"
            raise ValueError(f"it takes either a sparsity or a pattern, and {both} (sparsity: 0.5, or pattern: '2:4')")
        return self

    @property
    def uses_data(self) -> bool:
        """Whether calibration tokens are sent through the model."""
        return self.kind != "magnitude"

    @property
    def goal(self) -> float | str:
        """The sparsity or the pattern that was asked for."""
        return self.pattern if self.pattern is not None else self.sparsity  # type: ignore[return-value]

    def relevant(self) -> dict[str, Any]:
        """The settings that this kind uses, and only those (what the run's identity is made of)."""
        return {
            name: value for name, value in self.model_dump(mode="json").items() if name in FIELDS_OF_PRUNING[self.kind]
        }


_COMMON = {"kind", "sparsity", "pattern", "overrides", "skip", "dense_first", "dense_last"}
FIELDS_OF_PRUNING: dict[str, set[str]] = {
    "sparsegpt": _COMMON | {"mode", "damping", "block_size", "calibration"},
    "wanda": _COMMON | {"mode", "calibration"},
    "magnitude": _COMMON,
}

USUAL_LENGTH = 2048
"""Tokens per calibration sequence, as in the published experiments."""
