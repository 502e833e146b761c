"""Progress for a person: one bar for the run at hand, one line for each run that has ended."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lora_dist.cli.output import stderr
from lora_dist.config.experiment import Run
from lora_dist.dispatch.events import Listener
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Beat
from lora_dist.store.lock import Owner


class _Bar:
    """One rich bar that follows (stage, done, total, text)."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=stderr,
            transient=True,
            disable=not stderr.is_interactive,  # nothing could be redrawn; rich would leave an empty line
        )
        self._task = None
        self._stage = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, title: str, stage: str, done: int, total: int, text: str) -> None:
        """Move the bar; a new stage starts a new one, with its own clock."""
        description = f"{title} {stage}".strip()
        if self._task is None or description != self._stage:
            self.clear()
            self._task = self._progress.add_task(description, total=total or None, text=text)
            self._stage = description
        self._progress.update(self._task, completed=done, total=total or None, text=text)

    def clear(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class StageView(_Bar):
    """Progress of a single run in this process, for `train` and `evaluate --model`."""

    def __call__(self, stage: str, done: int, total: int, text: str) -> None:
        """Show how far the run is."""
        self.show("", stage, done, total, text)


def _steps_in_words(folder: RunFolder) -> str:
    """What a trained run's optimizer steps were made of."""
    try:
        plan = json.loads(folder.plan.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""  # a run that trains nothing has no plan
    return f": {plan['steps']} steps, {plan['arithmetic']}"


class ProgressView(_Bar, Listener):
    """A `Listener` that draws."""

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()
        self._title = ""

    def preparing(self, beat: Beat | None) -> None:
        """The checks before the first run."""
        if beat is None:
            self.show("", "starting", 0, 0, "importing torch, transformers, trl")
        else:
            self.show("", beat.stage, beat.done, beat.total, beat.text)

    def skipped(self, run: Run, folder: RunFolder) -> None:
        """Say that the run is done already."""
        self.line(f"  skipped    {run.label}: finished before, see {folder.record}")

    def started(self, run: Run, folder: RunFolder, number: int, of: int) -> None:
        """Start the run's clock."""
        self._started = time.monotonic()
        self._title = f"[{number}/{of}] {run.label}"

    def beat(self, run: Run, beat: Beat | None) -> None:
        """Move the bar."""
        if beat is None:
            self.show(self._title, "starting", 0, 0, "")
        else:
            self.show(self._title, beat.stage, beat.done, beat.total, beat.text)

    def ended(self, run: Run, folder: RunFolder, outcome: str, message: str) -> None:
        """Say how the run ended."""
        self.clear()
        seconds = f"{time.monotonic() - self._started:.0f} s"
        if outcome == "completed":
            self.line(f"  completed  {run.label} in {seconds}{_steps_in_words(folder)}")
        else:
            self.line(f"  {outcome:10} {run.label} after {seconds}")

    def elsewhere(self, run: Run, owner: Owner | None) -> None:
        """Say who has the run."""
        self.line(f"  elsewhere  {run.label}: {owner} has it; taking others first")
