"""Checkpoints that are whole or not there: `checkpoints/step-N`, each with a manifest written last.

transformers writes `checkpoint-N`; once every file is flushed and hashed the folder is renamed to `step-N`, so a name
says that it was complete, and the manifest says whether it still is.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_dist.errors import ConfigError, StorageError
from lora_dist.store.atomic import check_free, sync_file, sync_folder, write_errors
from lora_dist.store.manifest import flaw_of, read_manifest, write_manifest
from lora_dist.store.sizes import bytes_in
from lora_dist.team import Team
from lora_dist.world import World

_UNSEALED = "checkpoint-*"


@dataclass(frozen=True)
class Resume:
    """Where a run continues."""

    folder: Path | None
    step: int
    skipped: tuple[str, ...]
    """Checkpoints that were passed over, each with the reason."""


@contextlib.contextmanager
def filling(path: Path) -> Iterator[None]:
    """Remove `path` again when the block fails: half a checkpoint is of no use, and may be what fills the disk.

    Raises:
        StorageError: the disk is full.
    """
    try:
        with write_errors(path):
            yield
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def sealed(folder: Path) -> list[Path]:
    """The sealed checkpoints in `folder`, newest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=_step_of, reverse=True)


def sealed_steps(folder: Path) -> list[int]:
    """The steps of the sealed checkpoints in `folder`, newest first."""
    return [_step_of(path) for path in sealed(folder)]


def newest_step(folder: Path) -> int:
    """The step of the newest sealed checkpoint in `folder`; 0 when there is none."""
    return max(sealed_steps(folder), default=0)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


@dataclass(frozen=True)
class Makers:
    """Who saved a checkpoint: only the same run on the same ranks goes on from it exactly."""

    run: str
    world_size: int
    strategy: str

    @classmethod
    def of(cls, run_id: str, world: World) -> Makers:
        """The run `run_id` on the ranks of `world`."""
        return cls(run_id, world.size, world.strategy)

    def __str__(self) -> str:
        return "1 rank" if self.world_size == 1 else f"{self.world_size} ranks ({self.strategy})"


def seal(folder: Path, step: int, *, makers: Makers, keep: int) -> Path:
    """Complete the checkpoint that transformers has just written, then drop the oldest beyond `keep`.

    Those of later steps are dropped too: the run has passed them over as damaged, and must not count them as kept.

    Raises:
        StorageError: the disk is full, or what was written is not there; the checkpoint before is untouched.
    """
    written, final = folder / f"checkpoint-{step}", folder / f"step-{step}"
    with filling(written):
        write_manifest(written, {"step": step, **vars(makers)})
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step, from before a resume
        written.rename(final)
        sync_folder(folder)
    flaw = flaw_of(final, contents=False)  # the hashes are of what was read back a moment ago
    if flaw is not None:
        raise StorageError(key=str(final), problem=f"is not whole after saving: {flaw}", fix="check this disk")
    everything = sealed(folder)
    here = everything.index(final)
    for stale in everything[:here] + everything[here + keep :]:
        shutil.rmtree(stale)
    return final


def check_space(folder: Path, estimate: int) -> None:
    """Make sure that one more checkpoint fits on the disk, before a part of it fills the rest.

    Args:
        estimate: bytes of the first checkpoint; later ones are as large as the one before.
    Raises:
        StorageError: it does not fit.
    """
    newest = next(iter(sealed(folder)), None)
    needed = bytes_in(newest) if newest else estimate
    check_free(
        folder, needed, "a checkpoint", "free some space, lower train.keep_checkpoints, or choose another output_dir"
    )


def find_resume(folder: Path, *, makers: Makers) -> Resume:
    """The newest checkpoint that is complete and of this run, and why newer ones were passed over.

    What a killed process left unfinished is removed.

    Raises:
        ConfigError: it was saved by other ranks: only with the same ones does a run go on exactly.
    """
    for unfinished in folder.glob(_UNSEALED):
        shutil.rmtree(unfinished)
    skipped: list[str] = []
    for path in sealed(folder):
        reason = flaw_of(path) or _stranger(path, makers)
        if reason is None:
            _check_ranks(path, makers)
            return Resume(path, _step_of(path), tuple(skipped))
        skipped.append(f"{path.name}: {reason}")
    return Resume(None, 0, tuple(skipped))


def _stranger(path: Path, makers: Makers) -> str | None:
    owner = (read_manifest(path) or {}).get("run")
    return None if owner == makers.run else f"it belongs to run {owner}"


def _check_ranks(path: Path, makers: Makers) -> None:
    manifest = read_manifest(path) or {}
    savers = Makers(makers.run, manifest.get("world_size", 1), manifest.get("strategy", "plain"))
    if savers != makers:
        raise ConfigError(
            key=str(path),
            problem=f"was saved by {savers}, and this is a run of {makers}",
            fix=f"start it with {savers}, or delete {path.parent} to begin anew",
        )


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint as soon as all ranks have written their part, and saves none after the last step.

    The trained model follows at once there, and a checkpoint would cost its time and its disk for nothing.
    """

    def __init__(self, folder: Path, metrics: Path, *, makers: Makers, keep: int, team: Team) -> None:
        self.folder, self.metrics = folder, metrics
        self.makers, self.keep, self.team = makers, keep, team

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called after transformers has decided whether to save."""
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: object) -> None:
        """Called by transformers after `checkpoint-N` is written; the metrics up to it are on the disk before it is."""
        self.team.wait()
        self.team.first_does(lambda: self._seal(state.global_step))

    def _seal(self, step: int) -> None:
        sync_file(self.metrics)
        seal(self.folder, step, makers=self.makers, keep=self.keep)
