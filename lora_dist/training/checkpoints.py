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

from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_dist.errors import ConfigError, StorageError
from lora_dist.store.atomic import storage_errors, sync_file, sync_folder
from lora_dist.store.manifest import flaw_of, read_manifest, write_manifest

_UNSEALED = "checkpoint-*"


@dataclass(frozen=True)
class Resume:
    """Where a run continues."""

    folder: Path | None
    step: int
    skipped: tuple[str, ...]
    """Checkpoints that were passed over, each with the reason."""


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """`storage_errors` for what transformers writes: safetensors and torch raise errors of their own on a full disk."""
    with storage_errors(path):
        try:
            yield
        except (SafetensorError, RuntimeError) as error:
            text = " ".join(str(error).split())
            if not any(sign in text for sign in ("I/O error", "PytorchStreamWriter", "inline_container", "iostream")):
                raise
            raise StorageError(
                key=str(path),
                problem=f"cannot be written ({text[:200]})",
                fix="free some space, or choose another output_dir",
            ) from error


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


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def seal(folder: Path, step: int, *, run_id: str, world_size: int, keep: int) -> Path:
    """Complete the checkpoint that transformers has just written, then drop the oldest beyond `keep`.

    Those of later steps are dropped too: the run has passed them over as damaged, and must not count them as kept.

    Raises:
        StorageError: the disk is full; the checkpoint before is untouched.
    """
    written, final = folder / f"checkpoint-{step}", folder / f"step-{step}"
    with filling(written):
        write_manifest(written, {"step": step, "run": run_id, "world_size": world_size})
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step, from before a resume
        written.rename(final)
        sync_folder(folder)
    everything = sealed(folder)
    here = everything.index(final)
    for stale in everything[:here] + everything[here + keep :]:
        shutil.rmtree(stale)
    return final


def find_resume(folder: Path, *, run_id: str, world_size: int) -> Resume:
    """The newest checkpoint that is complete and of this run, and why newer ones were passed over.

    What a killed process left unfinished is removed.

    Raises:
        ConfigError: it was saved by another number of ranks: only with the same number does a run go on exactly.
    """
    for unfinished in folder.glob(_UNSEALED):
        shutil.rmtree(unfinished)
    skipped: list[str] = []
    for path in sealed(folder):
        reason = flaw_of(path) or _stranger(path, run_id)
        if reason is None:
            _check_world(path, world_size)
            return Resume(path, _step_of(path), tuple(skipped))
        skipped.append(f"{path.name}: {reason}")
    return Resume(None, 0, tuple(skipped))


def _stranger(path: Path, run_id: str) -> str | None:
    owner = (read_manifest(path) or {}).get("run")
    return None if owner == run_id else f"it belongs to run {owner}"


def _check_world(path: Path, world_size: int) -> None:
    saved_by = (read_manifest(path) or {}).get("world_size")
    if saved_by != world_size:
        raise ConfigError(
            key=str(path),
            problem=f"was saved by {saved_by} ranks, and this is a run of {world_size}",
            fix=f"start it with {saved_by} ranks, or delete {path.parent} to begin anew",
        )


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint as soon as transformers has written it, and saves none after the last step.

    The trained model follows at once there, and a checkpoint would cost its time and its disk for nothing.
    """

    def __init__(self, folder: Path, metrics: Path, *, run_id: str, world_size: int, keep: int) -> None:
        self.folder, self.metrics = folder, metrics
        self.run_id, self.world_size, self.keep = run_id, world_size, keep

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Called after transformers has decided whether to save."""
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: object) -> None:
        """Called by transformers after `checkpoint-N` is written; the metrics up to it are on the disk before it is."""
        sync_file(self.metrics)
        seal(self.folder, state.global_step, run_id=self.run_id, world_size=self.world_size, keep=self.keep)
