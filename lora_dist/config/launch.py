"""The launch section: where runs are started."""

from __future__ import annotations

from typing import Literal

from lora_dist.config.sections import Section, Text, Whole
from lora_dist.config.slurm import SlurmSection


class LaunchSection(Section):
    """Where runs are started. This never changes a run's identity or its numbers."""

    launcher: Literal["inline", "local", "accelerate", "slurm"] = "inline"
    """inline: one run after the other on this machine, each in a process of its own. local: several runs at a time,
    dealt over this machine's devices. accelerate: one run after the other, each on several ranks. slurm: jobs of a
    cluster."""
    config: Text = "auto"
    """accelerate, slurm: the name of a shipped launch config (cpu_zero2, ddp, zero3, ...), the path of an accelerate
    YAML, or auto, which picks one by the hardware and the method."""
    nodes: Whole = 1
    """accelerate, slurm: machines per run."""
    gpus_per_node: Literal["auto"] | Whole = "auto"
    """accelerate, slurm: ranks per machine; auto is every GPU of this machine, or what the config says where there is
    none; under slurm one GPU where the partition has some."""
    gpus_per_run: Whole = 1
    """local: GPUs that each run gets."""
    slots: Literal["auto"] | Whole = "auto"
    """local: runs at a time; auto is GPUs / gpus_per_run, or half the cores (at most 4) where there is no GPU."""
    slurm: SlurmSection = SlurmSection()
    """slurm: what jobs ask the cluster for."""
