"""How several adapters become one: the settings of a merge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lora_dist.config.problems import nearest
from lora_dist.errors import ConfigError

Method = Literal["linear", "weighted", "ties", "dare"]
METHODS: tuple[str, ...] = get_args(Method)
WEIGHT = 1.0
"""Of an adapter, where none are given: what it was trained as."""


@dataclass(frozen=True)
class Combination:
    """How several adapters become one."""

    method: Method = "linear"
    """linear: A and B are added up, each weighted by the square root (peft's `linear`; equal ranks; an approximation
    for more than one). weighted: what each adds to the weight, added up (exact; peft's `cat`). ties: each one's largest
    values, where most agree on the sign (Yadav et al. 2023, arXiv 2306.01708). dare: a random part of each, scaled up
    (Yu et al. 2024, arXiv 2311.03099)."""
    weights: tuple[float, ...] = (WEIGHT,)
    """Of each adapter."""
    density: float = 0.5
    """ties, dare: the share of each update that is kept."""
    seed: int = 0
    """dare: of the random part."""

    @classmethod
    def of(cls, adapters: int, **given: object) -> Combination:
        """That of so many adapters with what is given; what is not given (or None) is the default."""
        settings = {name: value for name, value in given.items() if value is not None}
        return cls(**{"weights": (WEIGHT,) * adapters, **settings})

    def check(self, adapters: int) -> None:
        """Make sure that this can be done to so many adapters.

        Raises:
            ConfigError: an option is not one, or does not fit.
        """
        if self.method not in METHODS:
            raise ConfigError(key="--method", problem=f"'{self.method}' is none", fix=nearest(self.method, METHODS))
        if len(self.weights) != adapters:
            raise ConfigError(
                key="--weights",
                problem=f"{len(self.weights)} for {adapters} adapter{'s' * (adapters != 1)}",
                fix="give one for each, in their order, such as 0.7,0.3",
            )
        if not all(map(math.isfinite, self.weights)):
            raise ConfigError(key="--weights", problem="not all are finite", fix="give numbers such as 0.7,0.3")
        if not 0 < self.density <= 1:
            raise ConfigError(key="--density", problem=f"{self.density:g} is no share", fix="use above 0, to 1")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(key="--seed", problem=f"{self.seed} is none", fix="use a whole number from 0")

    def needs_equal_ranks(self) -> bool:
        """Whether factors are added to factors."""
        return self.method == "linear"

    def sees_whole_updates(self) -> bool:
        """Whether what becomes of a weight depends on others of its linear."""
        return self.method in ("ties", "dare")

    def described(self) -> dict[str, object]:
        """The settings that this method uses."""
        own = {"ties": ("density",), "dare": ("density", "seed")}.get(self.method, ())
        return {
            "method": self.method,
            "weights": list(self.weights),
            **{name: getattr(self, name) for name in own},
        }
