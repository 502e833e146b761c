"""plan: what each run would take of a GPU, and how it would be launched. Loads no weights, imports no torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from lora_dist.assets import launch_config_path
from lora_dist.config.classification import is_classification
from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Experiment, Run
from lora_dist.dispatch.devices import gpus_here, parse_bytes
from lora_dist.dispatch.launch_config import read_launch_config
from lora_dist.errors import ConfigError
from lora_dist.pipeline.estimates import setting_of, shape_of_run
from lora_dist.planning.batches import BatchPlan, plan_batches
from lora_dist.planning.choice import Choice, Hardware, choose_launch_config, fallback_of, under
from lora_dist.planning.memory import Bytes, Setting, estimate
from lora_dist.planning.shape import KNOWN, ModelShape
from lora_dist.planning.strategies import strategy_problems


@dataclass(frozen=True)
class RunPlan:
    """One run as it would be launched."""

    run: Run
    bytes: Bytes
    config: str
    why: str
    setting: Setting
    batches: BatchPlan
    fits: bool | None
    """None where the GPU's memory is not known, or there is no GPU."""
    notes: tuple[str, ...]
    command: str

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "run_id": self.run.id,
            "label": self.run.label,
            "bytes": self.bytes.document(),
            "fits": self.fits,
            "chosen": {
                "launch_config": self.config,
                "why": self.why,
                "method": self.setting.method.kind,
                "strategy": self.setting.strategy,
                "offload": self.setting.offload,
                "world_size": self.batches.world_size,
                "micro_batch_size": self.batches.micro_batch_size,
                "accumulation": self.batches.accumulation,
                "length": self.setting.length,
            },
            "notes": list(self.notes),
            "command": self.command,
        }


def plan(
    experiment: Experiment, *, gpus: int | None = None, nodes: int | None = None, gpu_memory: str | None = None
) -> list[RunPlan]:
    """Estimate every run on this machine's GPUs, or on those that are named.

    Args:
        gpus: GPUs per machine.
        nodes: machines; those of `launch.nodes` unless given.
        gpu_memory: of one GPU, such as 80GiB.
    Raises:
        UserError: the config is wrong, or the model's architecture is not counted here.
    """
    here = gpus_here()
    known = [gpu.bytes for gpu in here if gpu.bytes]
    memory = parse_bytes(gpu_memory, "--gpu-memory") if gpu_memory else min(known, default=None)
    count = gpus if gpus is not None else len(here) or (1 if gpu_memory else 0)
    hardware = Hardware(count, memory, nodes or experiment.launch.nodes)
    runs = expand(experiment)
    arms = Counter(run.arm for run in runs)
    return [_plan_run(run, experiment, hardware, is_alone=arms[run.arm] == 1) for run in runs]


def _plan_run(run: Run, experiment: Experiment, hardware: Hardware, *, is_alone: bool) -> RunPlan:
    if is_classification(run):
        raise ConfigError(
            key="data.task",
            problem="the memory of a classifier is not counted here",
            fix="train it: its models are small, and the record tells the peak",
        )
    shape = shape_of_run(run, download=True)
    if shape is None:
        raise ConfigError(
            key="model.path",
            problem=f"the weights of '{run.model.path}' are of an architecture that is not counted here",
            fix=f"plan knows {', '.join(KNOWN)}; the run itself may work all the same",
        )
    ranks = max(1, hardware.gpus * hardware.nodes)
    setting = replace(setting_of(run, shape), on_gpu=hardware.gpus > 0)
    chosen = _chosen(run, shape, setting, hardware, experiment)
    ranks = 2 if hardware.gpus == 0 and chosen.config.startswith("cpu_") else ranks
    batches = plan_batches(run.train, ranks)
    setting = under(chosen.config, replace(setting, micro_batch_size=batches.micro_batch_size), ranks)
    problems = strategy_problems(run.method.kind, setting.strategy, validates=run.validates)
    notes = [str(problem) for problem in problems]
    if ranks == 1 and hardware.gpu_bytes and (fallback := fallback_of(shape, setting, hardware.gpu_bytes)):
        setting, notes = replace(setting, method=fallback.method), [*notes, fallback.why]
    found = estimate(shape, setting)
    fits = None if not hardware.gpu_bytes or not hardware.gpus else found.total <= hardware.gpu_bytes
    return RunPlan(
        run,
        found,
        chosen.config,
        chosen.why,
        setting,
        batches,
        fits,
        tuple(notes),
        _command(chosen.config, run, ranks, is_alone),
    )


def _chosen(run: Run, shape: ModelShape, setting: Setting, hardware: Hardware, experiment: Experiment) -> Choice:
    name = experiment.launch.config
    if name == "auto":
        return choose_launch_config(shape, setting, hardware, task=run.data.task, validates=run.validates)
    stage = read_launch_config(launch_config_path(name)).zero_stage
    return Choice(name if not name.endswith(".yaml") else f"zero{stage}" if stage else "ddp", "launch.config says so")


def _command(config: str, run: Run, ranks: int, is_alone: bool) -> str:
    """What to type in a checkout; EXPERIMENT stands for the words after `plan`. Several runs of an arm take compare."""
    if not is_alone and not config.startswith("multinode_"):
        return f"lora-dist compare EXPERIMENT --launcher accelerate launch.config={config}"
    more = f" --num_processes {ranks}" if ranks > 1 else ""
    if config.startswith("multinode_"):
        more += " --machine_rank RANK --main_process_ip FIRST_MACHINE"
    arm = "" if run.arm == "run" else f" --arm {run.arm}"
    return f"accelerate launch --config_file launch/{config}.yaml{more} -m lora_dist train EXPERIMENT{arm}"
