"""Early stopping: the loss on the validation split while a run trains, and the model of its lowest.

The losses stand in the run's metrics, which a resumed run cuts back to its checkpoint: what was best, and for how long,
follows from them, so a run that was stopped and started again decides as one that was not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_dist.errors import StorageError
from lora_dist.models.adapters import check_saved_adapter
from lora_dist.store.atomic import whole_folder, write_errors
from lora_dist.store.lines import read_lines
from lora_dist.training.checkpoints import sealed_steps

LOSS = "validation_loss"
"""In the metrics: nats per scored token, of a classification per row."""
_KEPT = "best-"


@dataclass(frozen=True)
class Losses:
    """The validation losses of a run so far, by optimizer step."""

    by_step: dict[int, float]

    @classmethod
    def of(cls, metrics: Path) -> Losses:
        """Those that a run's metrics hold."""
        return cls({line["step"]: line[LOSS] for line in read_lines(metrics) if LOSS in line})

    @property
    def best_step(self) -> int:
        """The step of the lowest loss, of equal ones the first; 0 before any."""
        return min(self.by_step, key=lambda step: (self.by_step[step], step), default=0)

    @property
    def since_best(self) -> int:
        """How many times in a row the loss has been measured without being a new lowest."""
        return sum(step > self.best_step for step in self.by_step)


class Validation(TrainerCallback):
    """Measures the validation loss every so many steps; with a patience keeps the best model, and stops the training.

    Comes after the clock of the steps, and before their lines are written.

    Args:
        measure: the loss of a model on the validation split, the same on every rank; all ranks call it.
        save: write the model as it is now to a folder; all ranks call it.
        patience: stop after so many measurements in a row without a new lowest; None never does, and keeps no model.
    """

    def __init__(
        self,
        trainer: Trainer,
        measure: Callable[[nn.Module], float],
        save: Callable[[Path], None],
        *,
        every: int,
        patience: int | None,
        metrics: Path,
    ) -> None:
        self.trainer, self.measure, self.save = trainer, measure, save
        self.every, self.patience = every, patience
        self.losses = Losses.of(metrics)

    def at(self, step: int) -> float | None:
        """The loss that was measured after `step`, if it was."""
        return self.losses.by_step.get(step)

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called by transformers; a run that stops here saves no checkpoint, since its model follows at once."""
        step = state.global_step
        if step % self.every and step < state.max_steps:
            return
        with self.trainer.accelerator.autocast():
            self.losses.by_step[step] = self.measure(self.trainer.model)
        if self.patience is None:
            return
        if self.losses.best_step == step:
            self._keep(step)
        elif self.losses.since_best >= self.patience:
            control.should_training_stop, control.should_save = True, False

    def leave_best(self, model: Path, *, is_adapter: bool) -> None:
        """Copy the model of the lowest loss to the run's `model/`, as `take_best` does; all ranks call it."""
        folder, step = Path(self.trainer.args.output_dir), self.losses.best_step
        self.trainer.team.first_does(lambda: take_best(folder, step, model, is_adapter=is_adapter))

    def _keep(self, step: int) -> None:
        folder = Path(self.trainer.args.output_dir)
        self.save(best_folder(folder, step))
        self.trainer.team.first_does(lambda: drop_stale(folder))


def best_folder(checkpoints: Path, step: int) -> Path:
    """Where the model of `step` is kept while its validation loss is the lowest."""
    return checkpoints / f"{_KEPT}{step}"


def drop_stale(checkpoints: Path) -> None:
    """Remove kept models that are neither the newest nor the best at a checkpoint that a run may go back to."""
    for step in stale(kept_steps(checkpoints), sealed_steps(checkpoints)):
        shutil.rmtree(best_folder(checkpoints, step))


def drop_later(checkpoints: Path, step: int) -> None:
    """Remove the kept models of steps after `step`, from which a run goes on. It gets there again, and another one may
    be the best then, since a GPU does not add up in the same order each time."""
    for later in kept_steps(checkpoints):
        if later > step:
            shutil.rmtree(best_folder(checkpoints, later))


def kept_steps(checkpoints: Path) -> list[int]:
    """The steps whose models are kept, in their order."""
    return sorted(int(path.name.removeprefix(_KEPT)) for path in checkpoints.glob(f"{_KEPT}*"))


def stale(kept: list[int], checkpoints: Iterable[int]) -> list[int]:
    """Which of the steps `kept`, in their order, were not the best any more at any of the `checkpoints`."""
    steps = list(checkpoints)
    return [
        step for step, following in pairwise(kept) if not any(step <= checkpoint < following for checkpoint in steps)
    ]


def take_best(checkpoints: Path, step: int, model: Path, *, is_adapter: bool) -> None:
    """Copy the model that was kept of `step` to the run's `model/`.

    Raises:
        StorageError: it is not there any more, or the disk is full.
        LoraDistError: it is an adapter that is still as it began.
    """
    best = best_folder(checkpoints, step)
    if not best.is_dir():
        raise StorageError(
            key=str(best), problem="the best model is gone", fix=f"delete {checkpoints} to train this run anew"
        )
    with write_errors(model), whole_folder(model) as aside:
        shutil.copytree(best, aside, dirs_exist_ok=True)
        if is_adapter:
            check_saved_adapter(aside)


def drop_all(checkpoints: Path) -> None:
    """Remove the kept models, once `model/` is there."""
    drop_later(checkpoints, 0)
