"""The launchers by name: where an experiment's runs go, and in what world each will find itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_dist.config.experiment import Run
from lora_dist.config.launch import LaunchSection
from lora_dist.dispatch.accelerate import Ranks
from lora_dist.dispatch.devices import gpus_here
from lora_dist.dispatch.slots import Slot, in_process, local_slots
from lora_dist.errors import ConfigError
from lora_dist.world import World


@dataclass(frozen=True)
class Launcher:
    """Slots for runs, and the world of each run."""

    slots: list[Slot]
    worlds: list[World]


def inline(runs: Sequence[Run]) -> Launcher:
    """One run after the other, on one rank."""
    return Launcher([Slot(in_process())], [World()] * len(runs))


def launcher_of(launch: LaunchSection, runs: Sequence[Run]) -> Launcher:
    """The launcher that an experiment asks for.

    Raises:
        ConfigError: this machine does not have what it asks for, or its config cannot be used.
    """
    if launch.launcher == "inline":
        return inline(runs)
    if launch.launcher == "slurm":
        raise ConfigError(
            key="launch.launcher",
            problem="is slurm, and this is done on this machine",
            fix="submit it (`lora-dist compare`, or submit in Python), or set it to inline, local or accelerate",
        )
    gpus = gpus_here()
    if launch.launcher == "accelerate":
        ranks = Ranks(launch, gpus)
        return Launcher([Slot(ranks.start())], [ranks.world_of(run) for run in runs])
    each = launch.gpus_per_run
    ranks = Ranks(launch.model_copy(update={"gpus_per_node": each}), gpus[:each])
    slots = local_slots(launch, [gpu.name for gpu in gpus], ranks.start)
    return Launcher(slots, [ranks.world_of(run) if each > 1 else World() for run in runs])
