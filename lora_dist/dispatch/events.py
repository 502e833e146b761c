"""What a launcher tells whoever shows it to a person."""

from __future__ import annotations

from collections.abc import Sequence

from lora_dist.config.experiment import Run
from lora_dist.store.folders import RunFolder
from lora_dist.store.heartbeat import Beat
from lora_dist.store.lock import Owner


class Listener:
    """Hears of an experiment's progress; this one shows nothing. Methods are called often and return at once."""

    def preparing(self, beat: Beat | None) -> None:
        """The checks before the first run are under way."""

    def skipped(self, run: Run, folder: RunFolder) -> None:
        """The run has a record already."""

    def started(self, run: Run, folder: RunFolder, number: int, of: int, devices: str) -> None:
        """A worker takes up the run, on `devices` where there are several to choose from."""

    def launching(self, run: Run, command: Sequence[str]) -> None:
        """The run's ranks are started by this command."""

    def logged(self, run: Run, line: str) -> None:
        """A line that the run's ranks have printed."""

    def stopping(self, run: Run) -> None:
        """The run has been asked to save and end."""

    def beat(self, run: Run, beat: Beat | None) -> None:
        """How far the run is."""

    def ended(self, run: Run, folder: RunFolder, outcome: str, message: str) -> None:
        """The run's attempt is over: completed, refused, interrupted or failed."""

    def elsewhere(self, run: Run, owner: Owner | None) -> None:
        """Another process has the run; others are taken first."""
