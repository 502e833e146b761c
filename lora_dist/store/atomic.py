"""Writing so that a reader sees the old thing or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lora_dist.errors import StorageError

_FIXES = {
    errno.ENOSPC: ("no space is left on this disk", "free some space, or choose another output_dir"),
    errno.EDQUOT: ("your quota on this disk is used up", "free some space, or choose another output_dir"),
    errno.EACCES: ("permission denied", "choose an output_dir that you may write to"),
    errno.EPERM: ("permission denied", "choose an output_dir that you may write to"),
    errno.EROFS: ("this file system is read-only", "choose another output_dir"),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "choose another output_dir"),
    errno.ENOENT: ("this folder is not there, and cannot be made", "choose another output_dir"),
    errno.EEXIST: ("a file is where a folder should be", "remove it, or choose another output_dir"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name or output_dir"),
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a `StorageError` with a fix."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FIXES:
            raise
        problem, fix = _FIXES[error.errno]
        raise StorageError(key=str(path), problem=problem, fix=fix) from error


def make_folder(path: Path) -> Path:
    """Make a folder and its parents.

    Raises:
        StorageError: it cannot be made, or a file is in its place.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file aside, flush it to the disk and rename it into place.

    Raises:
        StorageError: the disk is full, or the folder is not writable; the old file is then untouched.
    """
    with storage_errors(path):
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(aside, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new file that appears at `path` only when the block ends well. Yields the path aside, to be written.

    Raises:
        StorageError: the disk is full, or the folder is not writable.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with write_errors(path):
        try:
            yield aside
            os.chmod(aside, 0o666 & ~_umask())  # safetensors makes files that only their owner can read
            sync_file(aside)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """`storage_errors` for what libraries write: safetensors and torch raise errors of their own on a full disk."""
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


def check_free(folder: Path, needed: int, what: str, fix: str) -> None:
    """Make sure that `what` of so many bytes fits on the disk of `folder`, before a part of it fills the rest.

    Raises:
        StorageError: it does not fit.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            key=str(folder),
            problem=f"{what} takes {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free on this disk",
            fix=fix,
        )


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text; half a surrogate pair, which has no UTF-8, is written as its (JSON) escape."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, document: Any) -> None:
    """`write_bytes` of indented JSON. NaN and infinities are refused: JSON has none.

    Raises:
        ValueError: `document` holds a number that is not finite.
    """
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that appears at `path` only when the block ends well, replacing what was there.

    Yields the folder aside, to be filled. What a killed process left aside is removed first.

    Raises:
        StorageError: the disk is full, or the parent is not writable.
    """
    make_folder(path.parent)
    with storage_errors(path):
        _remove_leftovers(path)
        aside = Path(tempfile.mkdtemp(prefix=_aside_prefix(path) + f"{os.getpid()}.", dir=path.parent))
        aside.chmod(0o777 & ~_umask())
        try:
            yield aside
            _share(aside)
            sync_tree(aside)
            if path.exists():
                shutil.rmtree(path)
            os.replace(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_folder(path.parent)


def _share(folder: Path) -> None:
    """Give files the permissions of plainly made ones: safetensors makes some that only their owner can read."""
    mode = 0o666 & ~_umask()
    for directory, _, files in os.walk(folder):
        for name in files:
            os.chmod(os.path.join(directory, name), mode)


def _aside_prefix(path: Path) -> str:
    return f".{path.name}.partial.{socket.gethostname()}."


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that are no more were filling for `path`."""
    prefix = _aside_prefix(path)
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        pid = leftover.name.removeprefix(prefix).partition(".")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(leftover, ignore_errors=True)
        except PermissionError:  # alive, and somebody else's
            continue


def sync_tree(folder: Path) -> None:
    """Flush every file of `folder`, and the folders themselves, to the disk."""
    for directory, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(directory) / name)
        sync_folder(Path(directory))


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, so that a rename in it survives a power cut."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Flush one file (or a folder's list of names) to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's file-creation mask (which can only be read by setting it)."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
