"""At the start of a cluster's job, on each of its machines: is there what the job was given, and can the ranks talk?"""

from __future__ import annotations

import shutil
import socket

import torch

from lora_dist.config.experiment import Run
from lora_dist.errors import NodeUnfit, StorageError
from lora_dist.models.device import device_of
from lora_dist.pipeline.estimates import shape_of_run
from lora_dist.planning.disk import disk_bytes
from lora_dist.store.folders import RunFolder
from lora_dist.store.sizes import bytes_in
from lora_dist.team import Team
from lora_dist.world import SlurmJob, World, meeting_place, this_node

_GIB = 1024**3


def check_node(world: World, job: SlurmJob) -> None:
    """Before the ranks meet: this machine has the job's GPUs and, on the first one, a free port to meet at.

    Raises:
        NodeUnfit: it has not.
    """
    seen = torch.cuda.device_count()
    if seen < job.gpus_here:
        raise NodeUnfit(
            this_node(),
            f"torch sees {seen} of the {job.gpus_here} GPUs that the job was given there; see `nvidia-smi` there, and "
            f"whether this torch ({torch.__version__}) is built for them",
        )
    port = meeting_place().get("MASTER_PORT")
    if world.is_first and port is not None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise NodeUnfit(
                    this_node(), f"port {port}, where the ranks meet, cannot be used: {error.strerror}"
                ) from None


def check_team(team: Team) -> None:
    """Once they have met: a number from each rank's device, added up over all, is what it should be.

    Raises:
        NodeUnfit: it is not.
    """
    if team.world.size == 1:
        return
    told = torch.full((1024,), float(team.world.rank + 1), device=device_of(team.world))
    team.add_up(told)
    expected = team.world.size * (team.world.size + 1) / 2
    if not bool((told == expected).all()):
        raise NodeUnfit(this_node(), f"an all-reduce over {team.world.size} ranks gives a wrong sum there")


def check_disk(run: Run, folder: RunFolder, team: Team) -> None:
    """The disk has room for what the run will write, at its worst moment.

    Raises:
        StorageError: it has not.
    """

    def check() -> None:
        shape = shape_of_run(run)
        if shape is None:
            return
        there = bytes_in(folder.path)
        needed = disk_bytes(shape, run, under_zero=team.world.strategy.startswith("zero")) - there
        free = shutil.disk_usage(folder.path).free
        if free < needed:
            raise StorageError(
                key=str(folder.path),
                problem=f"its disk has {free / _GIB:,.1f} GiB free, and the run needs {needed / _GIB:,.1f} GiB more",
                fix="free some, or lower train.keep_checkpoints",
            )

    team.first_does(check)
