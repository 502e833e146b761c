"""From an experiment to its folder: may it be used, and what is finished in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_dist.assets import user_path
from lora_dist.config.experiment import Experiment, Run
from lora_dist.config.loading import load_experiment
from lora_dist.errors import ConfigError, StorageError, UserError
from lora_dist.store.atomic import make_folder, storage_errors, write_text
from lora_dist.store.folders import ExperimentFolder, dump_yaml
from lora_dist.store.manifest import read_manifest


def folder_of(experiment: Experiment, may_change: tuple[str, ...] = ()) -> ExperimentFolder:
    """The experiment's folder, checked and not yet made.

    Args:
        may_change: sections that may differ from those that the folder was made with.
    Raises:
        StorageError: it cannot be written, or it belongs to another experiment.
    """
    folder = ExperimentFolder(user_path(experiment.output_dir) / experiment.name)
    check_writable(folder.path)
    if folder.experiment.exists():
        _check_same_basis(folder, experiment, may_change)
    elif folder.path.is_dir() and any(_is_foreign(entry, folder) for entry in folder.path.iterdir()):
        raise StorageError(
            key=str(folder.path),
            problem="holds files, but no experiment of ours",
            fix="choose another name=... or output_dir=...",
        )
    return folder


def _is_foreign(entry: Path, folder: ExperimentFolder) -> bool:
    """Whether a file is none of what is written before the experiment file: the tokens, and files being written."""
    return entry != folder.tokens and not entry.name.startswith(".")


@contextlib.contextmanager
def claimed(folder: ExperimentFolder) -> Iterator[None]:
    """Make the experiment's folder; if it is new and the block fails, take it away again.

    What is refused leaves nothing behind, and a disk that cannot be written is found before the stack is imported.

    Raises:
        StorageError: the folder cannot be made.
    """
    make_folder(folder.path.parent)
    with storage_errors(folder.path):
        try:
            folder.path.mkdir()
            is_new = True
        except FileExistsError:
            is_new = False
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


def make_run_folders(experiment: Experiment, runs: list[Run], folder: ExperimentFolder) -> None:
    """Write the experiment file, and the folder of each run that has none.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    make_folder(folder.path)
    write_text(folder.experiment, dump_yaml(experiment.model_dump(mode="json")))
    for run in runs:
        folder.run(run.id).create(run.located().model_dump(mode="json"))


def check_pruned(runs: list[Run], folder: ExperimentFolder) -> None:
    """Make sure that no run's `pruned/` holds something else: it would be taken for the run's model.

    Raises:
        StorageError: one does.
    """
    for run in runs:
        place = folder.run(run.id).pruned
        if run.prune is None or not place.exists():
            continue
        if (read_manifest(place) or {}).get("pruning_key") != run.located().pruning_key:
            raise StorageError(
                key=str(place),
                problem="holds another model than this run's",
                fix="move it away, or choose another name",
            )


def unfinished(runs: list[Run], folder: ExperimentFolder) -> list[Run]:
    """The runs without a record.

    Raises:
        StorageError: a record is corrupt.
    """
    return [run for run in runs if folder.run(run.id).read_record() is None]


def check_writable(path: Path, key: str = "output_dir") -> None:
    """Make sure that a folder can be made or written at `path`, which the user named under `key`.

    Raises:
        StorageError: a file is in the way, or it is not allowed.
    """
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not there.is_dir():
        raise StorageError(key=key, problem=f"'{there}' is a file, not a folder", fix=f"choose another {key}")
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError(
            key=key, problem=f"'{there}' is not writable", fix=f"choose an {key.lstrip('-')} that you may write to"
        )


def _check_same_basis(folder: ExperimentFolder, experiment: Experiment, may_change: tuple[str, ...]) -> None:
    """Rows of one table must share model, data and settings: only arms, seeds and the launcher may change."""
    try:
        before = load_experiment(folder.experiment)
    except UserError as error:
        raise StorageError(
            key=str(folder.experiment), problem=f"cannot be read ({error})", fix="choose another name=..."
        ) from None
    changed = _changes(_without(before.basis(), may_change), _without(experiment.basis(), may_change))
    if changed:
        raise ConfigError(
            key=str(folder.path),
            problem=f"was made by a different config: {'; '.join(changed[:5])}{' ...' if len(changed) > 5 else ''}",
            fix="choose another name=... (or delete that folder)",
        )


def _without(document: dict[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    return {section: settings for section, settings in document.items() if section not in sections}


def _changes(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        changed: list[str] = []
        for name in sorted(before.keys() | now.keys()):
            changed += _changes(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        return changed
    return [] if before == now else [f"{key} was {before!r} and is now {now!r}"]
