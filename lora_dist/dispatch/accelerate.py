"""The accelerate launcher: each run on several ranks, started by `accelerate launch`."""

from __future__ import annotations

from lora_dist.assets import launch_config_path
from lora_dist.config.experiment import Run
from lora_dist.config.sections import LaunchSection
from lora_dist.dispatch.launch_config import LaunchConfig, launch_command, read_launch_config, write_located
from lora_dist.dispatch.slots import Job, Start
from lora_dist.errors import ConfigError
from lora_dist.store.folders import RunFolder
from lora_dist.world import World


class Ranks:
    """How the runs of an experiment are put on ranks."""

    def __init__(self, launch: LaunchSection, devices: list[str]) -> None:
        if launch.nodes > 1:
            raise ConfigError(
                key="launch.nodes",
                problem="compare starts processes on this machine only",
                fix="run `accelerate launch --config_file launch/multinode_zero2.yaml ... -m lora_dist train` on each",
            )
        self.launch, self.devices = launch, devices

    def config_of(self, run: Run) -> LaunchConfig:
        """The launch config of one run.

        Raises:
            ConfigError: it is not there, or cannot be used.
        """
        name = self.launch.config
        if name == "auto":
            name = "ddp" if len(self.devices) > 1 else "single_gpu" if self.devices else "cpu_ddp"
        return read_launch_config(launch_config_path(name))

    def processes_of(self, config: LaunchConfig) -> int:
        """How many ranks a run has: as asked for, one per GPU, or what the config says."""
        if self.launch.gpus_per_node != "auto":
            return self.launch.gpus_per_node
        return len(self.devices) if self.devices and not config.document.get("use_cpu") else config.processes

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
