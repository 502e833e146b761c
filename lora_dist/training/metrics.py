"""One JSON line per optimizer step, and the run's training figures made of those lines.

A resumed run cuts the lines back to its checkpoint and goes on, so the figures do not depend on how often it stopped.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_dist.errors import TrainingDiverged
from lora_dist.models.device import synchronize
from lora_dist.store.atomic import write_text
from lora_dist.store.lines import append_line, read_lines
from lora_dist.team import Team
from lora_dist.training.validation import LOSS

WARM_UP_STEPS = 2
"""Steps after each start that are left out of the rates: allocators and caches warm up."""


def cut_back(metrics: Path, step: int) -> None:
    """Drop the lines of steps after `step`: they will be done again."""
    kept = [line for line in read_lines(metrics) if line["step"] <= step]
    write_text(metrics, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


class StepMetrics(TrainerCallback):
    """Writes a line for each optimizer step; stops the run when the loss is no number any more.

    A step's time runs from the end of the work on the one before (its log and checkpoint included) to the end of its
    own optimizer step, so that loading of batches counts and saving does not. For that, this callback has to come
    after the one that seals checkpoints. Of several ranks the slowest's time counts, and rank 0 writes.
    """

    def __init__(
        self,
        metrics: Path,
        device: torch.device,
        learning_rate: float,
        team: Team,
        scored_tokens: Callable[[], int],
        filler_tokens: Callable[[int], int],
        step_was_skipped: Callable[[], bool],
        validation_loss: Callable[[int], float | None],
        progress: Callable[[int, int, str], None],
    ) -> None:
        self.metrics, self.device, self.learning_rate, self.team = metrics, device, learning_rate, team
        self.scored_tokens, self.filler_tokens = scored_tokens, filler_tokens
        self.step_was_skipped, self.validation_loss, self.progress = step_was_skipped, validation_loss, progress
        self._mark = self._seconds = 0.0
        self._tokens_before = 0
        self._steps_here = 0

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Start the clock."""
        self._mark = self._now()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Stop the clock: the optimizer has stepped."""
        self._seconds = self.team.highest(self._now() - self._mark)

    def on_log(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: object,
    ) -> None:
        """Write the step's line.

        Raises:
            TrainingDiverged: the loss or the gradient norm is NaN or infinite.
        """
        if not logs or "loss" not in logs:  # the summary at the end
            return
        step, loss, norm = state.global_step, float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        overflowed = not math.isfinite(norm) and self.step_was_skipped()  # float16's loss scale adapts itself
        if not (math.isfinite(loss) and (math.isfinite(norm) or overflowed)):
            raise self._diverged(f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}", state)
        self._steps_here += 1
        tokens = int(logs["num_tokens"])  # counted by TRL since this process started, without padding
        line = {
            "step": step,
            "epoch": float(logs.get("epoch", 0.0)),
            "loss": loss,
            "learning_rate": float(logs.get("learning_rate", 0.0)),
            "gradient_norm": None if overflowed else norm,
            "seconds": self._seconds,
            "tokens": tokens - self._tokens_before - self.filler_tokens(step),
            "scored_tokens": self.scored_tokens(),
            "warm_up": self._steps_here <= WARM_UP_STEPS,
        }
        validated = self.validation_loss(step)
        if validated is not None:
            line[LOSS] = validated
        self._tokens_before = tokens
        if self.team.world.is_first:
            append_line(self.metrics, line, durable=False)
        also = "" if validated is None else f", validation {validated:.3f}"
        self.progress(step, state.max_steps, f"loss {loss:.3f}{also}")
        self._mark = self._now()

    def on_save(self, *_: object, **__: object) -> None:
        """Leave the saving out of the next step's time."""
        self._mark = self._now()

    def _diverged(self, what: str, state: TrainerState) -> TrainingDiverged:
        return TrainingDiverged(
            f"the {what} at step {state.global_step} of {state.max_steps}; lower train.learning_rate (it is "
            f"{self.learning_rate:g}), or lengthen train.warmup_fraction"
        )

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class TrainingFigures:
    """What the lines of a finished run add up to."""

    steps: int
    epochs: float
    tokens: int
    scored_tokens: int
    final_loss: float
    seconds: float
    seconds_per_epoch: float
    tokens_per_second: float


def figures_of(metrics: Path, steps_per_epoch: int) -> TrainingFigures:
    """The figures of a finished run. Rates leave out the warm-up steps, unless there are no others."""
    lines = list(read_lines(metrics))
    steady = [line for line in lines if not line["warm_up"]] or lines
    last = lines[-max(1, len(lines) // 10) :]
    scored = sum(line["scored_tokens"] for line in last)
    return TrainingFigures(
        steps=lines[-1]["step"],
        epochs=lines[-1]["epoch"],
        tokens=sum(line["tokens"] for line in lines),
        scored_tokens=sum(line["scored_tokens"] for line in lines),
        final_loss=sum(line["loss"] * line["scored_tokens"] for line in last) / scored,
        seconds=sum(line["seconds"] for line in lines),
        seconds_per_epoch=statistics.median(line["seconds"] for line in steady) * steps_per_epoch,
        tokens_per_second=sum(line["tokens"] for line in steady) / sum(line["seconds"] for line in steady),
    )
