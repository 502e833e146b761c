"""retry: submit again what has failed on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_dist.config.expansion import expand
from lora_dist.config.loading import load_experiment
from lora_dist.config.problems import nearest
from lora_dist.dispatch.events import Listener
from lora_dist.errors import ConfigError
from lora_dist.store.folders import open_experiment_folder
from lora_dist.verbs.submit import SubmitResult, submit


def retry(folder: Path | str, runs: Sequence[str] = (), *, listener: Listener | None = None) -> SubmitResult:
    """Submit the runs with these ids again (all that have no record and no job, if none is named).

    Raises:
        StorageError: it is not an experiment's folder.
        ConfigError: it is not a cluster's, or it has no such run.
    """
    opened = open_experiment_folder(Path(folder))
    experiment = load_experiment(opened.experiment)
    if experiment.launch.launcher != "slurm":
        raise ConfigError(
            key=str(opened.path),
            problem=f"was started with the launcher {experiment.launch.launcher}, not with slurm",
            fix=f"type `lora-dist compare {opened.path}`: it does again what has no record",
        )
    known = [run.id for run in expand(experiment)]
    for run_id in runs:
        if run_id not in known:
            raise ConfigError(key="RUN", problem=f"'{run_id}' is no run of it", fix=nearest(run_id, known))
    located = experiment.model_copy(update={"output_dir": str(opened.path.parent), "name": opened.path.name})
    return submit(located, only=list(runs) or None, listener=listener)
