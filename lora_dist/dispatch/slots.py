"""Slots: how many runs go at a time, on which devices, and how each is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lora_dist.config.experiment import Run
from lora_dist.config.launch import LaunchSection
from lora_dist.errors import ConfigError
from lora_dist.store.folders import RunFolder

MOST_AUTO_SLOTS = 4
Job = tuple[str, dict[str, Any]]
"""An action of the nursery's children, and its arguments."""
Start = Callable[[Run, RunFolder], Job]


@dataclass(frozen=True)
class Slot:
    """A place where one run goes at a time."""

    start: Start
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the run's process: it sees its own devices only."""
    devices: str = ""
    """What a person reads of it, such as GPU 3."""


def in_process(threads: int | None = None) -> Start:
    """The run is worked on in a child of the nursery, with `threads` threads (all that torch takes, unless given)."""
    return lambda _, folder: ("work_on", {"run_folder": str(folder.path.resolve()), "threads": threads})


def local_slots(launch: LaunchSection, devices: list[str], ranks: Callable[[int], Start]) -> list[Slot]:
    """The slots of this machine: its GPUs by `gpus_per_run`, or shares of its cores where it has none.

    Args:
        devices: what CUDA_VISIBLE_DEVICES would name: indices or UUIDs.
        ranks: how a run on several GPUs is started, by their number.
    Raises:
        ConfigError: a run is to have more GPUs than there are, or there are fewer GPUs than slots.
    """
    if not devices:
        return _cpu_slots(launch)
    each = launch.gpus_per_run
    most = len(devices) // each
    if not most:
        raise ConfigError(
            key="launch.gpus_per_run",
            problem=f"a run is to have {each} GPUs, and this machine shows {len(devices)}",
            fix=f"use at most {len(devices)}, or check CUDA_VISIBLE_DEVICES",
        )
    count = most if launch.slots == "auto" else launch.slots
    if count > most:
        raise ConfigError(
            key="launch.slots",
            problem=f"{count} x {each} GPUs are {count * each}, and this machine shows {len(devices)}",
            fix=f"use at most {most}, or auto",
        )
    start = in_process() if each == 1 else ranks(each)
    shares = [devices[number * each : (number + 1) * each] for number in range(count)]
    return [Slot(start, {"CUDA_VISIBLE_DEVICES": ",".join(share)}, f"GPU {','.join(share)}") for share in shares]


def _cpu_slots(launch: LaunchSection) -> list[Slot]:
    if launch.gpus_per_run > 1:
        raise ConfigError(
            key="launch.gpus_per_run", problem="this machine shows no GPU", fix="leave it out, or set launch.slots"
        )
    cores = len(os.sched_getaffinity(0))
    count = max(1, min(MOST_AUTO_SLOTS, cores // 2)) if launch.slots == "auto" else launch.slots
    threads = max(1, cores // count)
    return [
        Slot(in_process(threads), {"OMP_NUM_THREADS": str(threads)}, f"slot {number + 1}") for number in range(count)
    ]
