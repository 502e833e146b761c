"""Checkpoints that are whole or not there: `checkpoints/step-N`, each with a manifest written last.

transformers writes `checkpoint-N`; once every file is flushed and hashed the folder is renamed to `step-N`, so a name
says that it was complete, and the manifest says whether it still is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_dist.store.atomic import storage_errors, sync_folder
from lora_dist.store.manifest import flaw_of, read_manifest, write_manifest

_UNSEALED = "checkpoint-*"


@dataclass(frozen=True)
class Resume:
    """Where a run continues."""

    folder: Path | None
    step: int
    skipped: tuple[str, ...]
    """Checkpoints that were passed over, each with the reason."""


def sealed(folder: Path) -> list[Path]:
    """The sealed checkpoints in `folder`, newest first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def seal(folder: Path, step: int, *, run_id: str, world_size: int, keep: int) -> Path:
    """Complete the checkpoint that transformers has just written, then drop the oldest beyond `keep`.

    Raises:
        StorageError: the disk is full; the checkpoint before is untouched.
    """
    written, final = folder / f"checkpoint-{step}", folder / f"step-{step}"
    with storage_errors(final):
        write_manifest(written, {"step": step, "run": run_id, "world_size": world_size})
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step, from before a resume
        written.rename(final)
        sync_folder(folder)
    for old in sealed(folder)[keep:]:
        shutil.rmtree(old)
    return final


def find_resume(folder: Path, *, run_id: str, world_size: int) -> Resume:
    """The newest checkpoint that is complete and fits, and why newer ones were passed over.

    What a killed process left unfinished is removed.
    """
    for unfinished in folder.glob(_UNSEALED):
        shutil.rmtree(unfinished)
    skipped: list[str] = []
    for path in sealed(folder):
        reason = flaw_of(path) or _misfit(path, run_id, world_size)
        if reason is None:
            return Resume(path, int(path.name.removeprefix("step-")), tuple(skipped))
        skipped.append(f"{path.name}: {reason}")
    return Resume(None, 0, tuple(skipped))


def _misfit(path: Path, run_id: str, world_size: int) -> str | None:
    manifest = read_manifest(path) or {}
    if manifest.get("run") != run_id:
        return f"it belongs to run {manifest.get('run')}"
    if manifest.get("world_size") != world_size:
        return f"it was saved by {manifest.get('world_size')} ranks, not {world_size}"
    return None


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint as soon as transformers has written it."""

    def __init__(self, folder: Path, *, run_id: str, world_size: int, keep: int) -> None:
        self.folder, self.run_id, self.world_size, self.keep = folder, run_id, world_size, keep

    def on_save(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: object) -> None:
        """Called by transformers after `checkpoint-N` is written."""
        seal(self.folder, state.global_step, run_id=self.run_id, world_size=self.world_size, keep=self.keep)
