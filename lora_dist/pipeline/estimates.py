"""What the estimate needs of a run, its model's shape and its setting, and the launch config that follows. None of it
takes torch."""

from __future__ import annotations

from lora_dist.config.classification import is_classification
from lora_dist.config.experiment import Run
from lora_dist.data.lengths import resolve_lengths
from lora_dist.models.config_file import read_config
from lora_dist.planning.batches import plan_batches
from lora_dist.planning.choice import Choice, Hardware, choose_launch_config
from lora_dist.planning.memory import Setting
from lora_dist.planning.shape import ModelShape, shape_of


def shape_of_run(run: Run, *, download: bool = False) -> ModelShape | None:
    """The shape of a run's model; None where it is not known without asking the hub, or not counted here, as a
    classifier is not: it has no logits over a vocabulary, and QLoRA cannot take over.

    Raises:
        ModelError: there is no such model.
    """
    if is_classification(run):
        return None
    config = read_config(run.model, download=download)
    return shape_of(config) if config is not None else None


def setting_of(run: Run, shape: ModelShape, ranks: int = 1) -> Setting:
    """What a run's bytes depend on, on GPUs that share nothing yet.

    Raises:
        ConfigError: a length or the batch does not go with the model or the ranks.
    """
    return Setting(
        method=run.method,
        world_size=ranks,
        micro_batch_size=plan_batches(run.train, ranks).micro_batch_size,
        length=resolve_lengths(run.data, shape.context).max_length,
        checkpointing=run.train.gradient_checkpointing,
    )


def launch_choice(run: Run, hardware: Hardware) -> Choice:
    """The launch config of a run for which `auto` stands.

    Raises:
        ModelError: there is no such model.
        ConfigError: as `setting_of`.
    """
    shape = shape_of_run(run)
    setting = setting_of(run, shape, max(1, hardware.gpus * hardware.nodes)) if shape else Setting(run.method)
    return choose_launch_config(shape, setting, hardware, task=run.data.task, validates=run.validates)
