"""Progress for a person: a bar for each run under way, and a line for each that has ended."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lora_dist.cli.output import stderr
from lora_dist.config.experiment import Run
from lora_dist.dispatch.events import Listener
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Beat
from lora_dist.store.lock import Owner


class _Amount(MofNCompleteColumn):
    """How much of how much: bytes while something is fetched, else counted in ones."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = DownloadColumn()

    def render(self, task: Task) -> Text:
        """One cell."""
        return self._bytes.render(task) if task.fields["in_bytes"] else super().render(task)


class _Bars:
    """rich bars, one for each thing under way, that follow (stage, done, total, text)."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Amount(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=stderr,
            transient=True,
            disable=not stderr.is_interactive,  # nothing could be redrawn; rich would leave an empty line
        )
        self._tasks: dict[str, tuple[TaskID, str]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, title: str, stage: str, done: int, total: int, text: str) -> None:
        """Move the bar of `title`; a new stage starts a new one, with its own clock."""
        task, shown = self._tasks.get(title, (None, ""))
        if task is None or stage != shown:
            self.clear(title)
            name, in_bytes = f"{title} {stage}".strip(), stage.startswith("fetch")
            task = self._progress.add_task(name, total=total or None, text=text, in_bytes=in_bytes)
            self._tasks[title] = task, stage
        self._progress.update(task, completed=done, total=total or None, text=text)

    def clear(self, title: str) -> None:
        """Take a bar away."""
        if title in self._tasks:
            self._progress.remove_task(self._tasks.pop(title)[0])

    def line(self, text: str) -> None:
        """A line that stays, above the bars."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class StageView(_Bars):
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


class ProgressView(_Bars, Listener):
    """A `Listener` that draws."""

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[str, float] = {}
        self._titles: dict[str, str] = {}

    def preparing(self, beat: Beat | None) -> None:
        """The checks before the first run."""
        if beat is None:
            self.show("", "starting", 0, 0, "importing torch, transformers, trl")
        else:
            self.show("", beat.stage, beat.done, beat.total, beat.text)

    def skipped(self, run: Run, folder: RunFolder) -> None:
        """Say that the run is done already."""
        self.line(f"  skipped    {run.label}: finished before, see {folder.record}")

    def started(self, run: Run, folder: RunFolder, number: int, of: int, devices: str) -> None:
        """Start the run's clock."""
        self.clear("")
        self._started[run.id] = time.monotonic()
        self._titles[run.id] = f"[{number}/{of}] {run.label}{f' on {devices}' if devices else ''}"

    def launching(self, run: Run, command: Sequence[str]) -> None:
        """Show the command, for whoever wants to run it by hand."""
        self.line(f"  launching  {run.label}: {shlex.join(command)}")

    def logged(self, run: Run, line: str) -> None:
        """What the run's ranks print."""
        self.line(f"  | {line}")

    def beat(self, run: Run, beat: Beat | None) -> None:
        """Move the bar."""
        if beat is None:
            self.show(self._titles[run.id], "starting", 0, 0, "")
        else:
            self.show(self._titles[run.id], beat.stage, beat.done, beat.total, beat.text)

    def stopping(self, run: Run) -> None:
        """Say what is waited for."""
        self.line(f"  stopping   {run.label}: it ends as soon as it has saved; a second signal ends it at once")

    def ended(self, run: Run, folder: RunFolder, outcome: str, message: str) -> None:
        """Say how the run ended."""
        self.clear(self._titles.pop(run.id, ""))
        since = self._started.pop(run.id, None)
        seconds = "" if since is None else f"{time.monotonic() - since:.0f} s"
        if outcome == "completed":
            self.line(f"  completed  {run.label} in {seconds}{_steps_in_words(folder)}")
            if folder.method.exists():
                self.line(f"             {json.loads(folder.method.read_text(encoding='utf-8'))['fallback_reason']}")
        else:
            self.line(f"  {outcome:10} {run.label}{f' after {seconds}' if seconds else ''}")

    def elsewhere(self, run: Run, owner: Owner | None) -> None:
        """Say who has the run."""
        self.line(f"  elsewhere  {run.label}: {owner} has it; taking others first")
