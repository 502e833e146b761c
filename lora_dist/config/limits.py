"""Settings that are right by themselves and do not go with a run's method, where that takes no model to know."""

from __future__ import annotations

from collections.abc import Iterator

from lora_dist.config.experiment import Run
from lora_dist.errors import Problem


def limit_problems(run: Run) -> Iterator[Problem]:
    """What a run's method rules out, by the keys of the run."""
    if run.method.kind != "prefix":
        return
    if run.data.packing:
        yield Problem(
            "data.packing",
            "prefix cannot be trained on packed sequences: behind a prefix their examples would see each other",
            "set it to false",
        )
    if run.train.gradient_checkpointing:
        yield Problem(
            "train.gradient_checkpointing",
            "prefix cannot recompute activations: they depend on a cache, and peft refuses it",
            "set it to false; train.micro_batch_size=1 takes less memory too",
        )
    if run.evaluate.merged == "always":
        yield Problem(
            "evaluate.merged",
            "prefix cannot be merged: a prefix is no change of the weights",
            "set it to auto or never",
        )
