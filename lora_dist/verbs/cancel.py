"""cancel: end the jobs of an experiment on a cluster."""

from __future__ import annotations

from pathlib import Path

from lora_dist.dispatch.adoption import Live, live_jobs
from lora_dist.dispatch.cluster import end_jobs
from lora_dist.errors import ConfigError
from lora_dist.store.folders import open_experiment_folder
from lora_dist.store.ledger import write_cancelled
from lora_dist.store.lock import exclusive


def cancel(folder: Path | str) -> list[Live]:
    """End every job of an experiment that waits or runs; what runs saves first. The jobs that were ended.

    Raises:
        StorageError: it is not an experiment's folder.
        ConfigError: it has no jobs, or the cluster does not answer.
        Held: another process submits jobs of it.
    """
    opened = open_experiment_folder(Path(folder))
    with exclusive(opened.submit_lock):
        live = live_jobs(opened, adopt=True)
        if not live:
            raise ConfigError(
                key=str(opened.path), problem="has no job that waits or runs", fix="see `lora-dist status`"
            )
        end_jobs([job.job for job in live])
        for submission in dict.fromkeys(job.submission for job in live):
            write_cancelled(opened.ledger, submission)
    return live
