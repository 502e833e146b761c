"""compare --wait: say what changes of a cluster's jobs, until none waits or runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from lora_dist.dispatch.adoption import live_jobs
from lora_dist.store.folders import ExperimentFolder

POLL_S = 5.0


def follow(folder: ExperimentFolder, tell: Callable[[str], None]) -> None:
    """Until no job of the experiment waits or runs; `tell` gets a line for each change.

    Raises:
        ConfigError: the cluster does not answer.
    """
    before: dict[str, str] = {}
    while live := live_jobs(folder):
        now = {job.job: f"{job.run or job.stage}: {job.state}{f' on {job.nodes}' if job.nodes else ''}" for job in live}
        for job, line in now.items():
            if before.get(job) != line:
                tell(f"{job} {line}")
        before = now
        time.sleep(POLL_S)
