"""The accelerate launcher: each run on several ranks, started by `accelerate launch`."""

from __future__ import annotations

from lora_dist.assets import launch_config_path
from lora_dist.config.experiment import Run
from lora_dist.config.launch import LaunchSection
from lora_dist.dispatch.devices import Gpu
from lora_dist.dispatch.launch_config import LaunchConfig, launch_command, read_launch_config, write_located
from lora_dist.dispatch.slots import Job, Start
from lora_dist.errors import ConfigError
from lora_dist.pipeline.estimates import launch_choice
from lora_dist.planning.choice import Hardware
from lora_dist.store.folders import RunFolder
from lora_dist.world import World


class Ranks:
    """How the runs of an experiment are put on ranks."""

    def __init__(self, launch: LaunchSection, gpus: list[Gpu]) -> None:
        if launch.nodes > 1:
            raise ConfigError(
                key="launch.nodes",
                problem="compare starts processes on this machine only",
                fix="run `accelerate launch --config_file launch/multinode_zero2.yaml ... -m lora_dist train` on each",
            )
        self.launch, self.gpus = launch, gpus

    def config_of(self, run: Run) -> LaunchConfig:
        """The launch config of one run.

        Raises:
            ConfigError: it is not there, or cannot be used.
        """
        name = self.launch.config if self.launch.config != "auto" else self._choose(run)
        return read_launch_config(launch_config_path(name))

    def _choose(self, run: Run) -> str:
        """By the hardware and the method: see `lora-dist plan`, which says why."""
        count = (
            len(self.gpus) if self.launch.gpus_per_node == "auto" else min(self.launch.gpus_per_node, len(self.gpus))
        )
        hardware = Hardware(count, min((gpu.bytes for gpu in self.gpus if gpu.bytes), default=None))
        return launch_choice(run, hardware).config

    def processes_of(self, config: LaunchConfig) -> int:
        """How many ranks a run has: as asked for, one per GPU, or what the config says."""
        if self.launch.gpus_per_node != "auto":
            return self.launch.gpus_per_node
        takes_gpus = self.gpus and config.document["distributed_type"] != "NO" and not config.document.get("use_cpu")
        return len(self.gpus) if takes_gpus else config.processes

    def world_of(self, run: Run) -> World:
        """The world of the run's ranks, as the first of them will see it."""
        config = self.config_of(run)
        processes = self.processes_of(config)
        return World(0, processes, 0, config.strategy(processes))

    def start(self, processes: int | None = None) -> Start:
        """How a run is started (on `processes` ranks, if given): by the command that a person would type."""

        def job(run: Run, folder: RunFolder) -> Job:
            config = self.config_of(run)
            located = write_located(config, folder.path / "launch", processes=processes or self.processes_of(config))
            return "launch", {"command": launch_command(located, "work", str(folder.path.resolve()))}

        return job
