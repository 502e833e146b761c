"""evaluate: measure the runs of an experiment again, or any model folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lora_dist.config.classification import TASK as CLASSIFICATION
from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.dispatch.checks import check_runs
from lora_dist.dispatch.children import Nursery
from lora_dist.dispatch.events import Listener
from lora_dist.dispatch.launchers import inline
from lora_dist.dispatch.queue import Queue
from lora_dist.errors import ConfigError, ModelError, StorageError
from lora_dist.store.atomic import write_text
from lora_dist.store.folders import ExperimentFolder, dump_yaml
from lora_dist.store.lock import holder
from lora_dist.store.record import Record
from lora_dist.team import Team
from lora_dist.training.stop import StopFlag
from lora_dist.verbs.compare import ComparisonResult, result_in
from lora_dist.verbs.folders import folder_of, make_run_folders
from lora_dist.verbs.train import Progress, silent


def evaluate(experiment: Experiment, *, listener: Listener | None = None) -> ComparisonResult:
    """Measure every trained run (and the base) again, with the evaluation settings of `experiment`; train nothing.

    Raises:
        StorageError: nothing has been trained in the experiment's folder, or a run is being worked on.
        Refused: something the user can mend is wrong.
    """
    listener = listener or Listener()
    folder = folder_of(experiment, may_change=("evaluate",))
    runs = [run for run in expand(experiment) if not run.trains or folder.run(run.id).training.exists()]
    if not any(folder.run(run.id).config.exists() for run in runs):
        raise StorageError(
            key=str(folder.path), problem="holds no trained run to measure", fix="use compare or train first"
        )
    for run in runs:
        if owner := holder(folder.run(run.id).lock):
            raise StorageError(key=run.id, problem=f"is being worked on by {owner}", fix="wait for it, or stop it")
    launcher, stop = inline(runs), StopFlag(dies_when_asked_again=False)
    with stop.listening(), Nursery() as nursery:
        check_runs(nursery, runs, launcher.worlds, folder, listener, stop)
        make_run_folders(experiment, runs, folder)
        for run in runs:
            run_folder = folder.run(run.id)
            write_text(run_folder.config, dump_yaml(run.located().model_dump(mode="json")))
            run_folder.record.unlink(missing_ok=True)
        Queue(nursery, runs, folder, launcher.slots, listener, stop).work()
    return result_in(runs, folder)


def evaluate_model(
    experiment: Experiment,
    *,
    adapter: Path | None = None,
    sparse_kernels: bool = False,
    progress: Progress | None = None,
) -> Record:
    """Measure any model folder (with an adapter on it, if given) on the data of `experiment`; nothing is kept.

    Args:
        sparse_kernels: also score with the device's 2:4 kernels; the record says what came of it, or why nothing did.
    Raises:
        ConfigError: the experiment has arms.
        ModelError: `adapter` is not an adapter's folder, or 2:4 kernels compute something else than dense ones.
        UserError: something else that the user can mend.
    """
    if experiment.arms:
        raise ConfigError(key="arms", problem="one model is measured here", fix="leave arms out, or use compare")
    if sparse_kernels and experiment.data.task == CLASSIFICATION:
        raise ConfigError(key="--sparse-kernels", problem=f"is not there for {CLASSIFICATION}", fix="leave it out")
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise ModelError(
            key="--adapter", problem=f"'{adapter}' holds no adapter_config.json", fix="give a folder that peft saved"
        )
    run = Run.model_validate(
        expand(experiment)[0].located().model_dump() | {"method": {"kind": "base"}, "arm": "model"}
    )
    from lora_dist.pipeline.measure import measure_run  # imports the stack, which takes 10 s
    from lora_dist.pipeline.preflight import Preflight

    show = progress or silent
    with tempfile.TemporaryDirectory(prefix="lora_dist-") as name:
        folder = ExperimentFolder(Path(name))
        preflight = Preflight(folder.tokens, show)
        preflight.check([run])
        tokens = preflight.save()[0]
        run_folder = folder.run(run.id)
        run_folder.create(run.model_dump(mode="json"))
        tokenizer = preflight.tokenizer_of(run)
        return measure_run(
            run,
            run_folder,
            tokens,
            tokenizer,
            Team(),
            show,
            seconds_before=0.0,
            adapter=adapter,
            sparse_kernels=sparse_kernels,
        )
