"""Which weights are these? A hash of a model's tensors, the same however they are dealt to files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lora_dist.config.sections import ModelSection
from lora_dist.models.weights import check_weights

_PIECE = 64 * 2**10
_PIECES = 4
"""Bytes of each piece, and how many pieces of a tensor are read: all of it up to 256 KiB, an even sample beyond. Any
training, pruning or merging moves nearly every weight of the tensors that it touches, so a sample tells; reading all
of a 70B model would take minutes."""


def fingerprint_of(section: ModelSection) -> str:
    """64 hex that tell the weights of a pretrained model from any others. Reads at most 256 KiB of each tensor.

    Raises:
        ModelError: they are not there, or a file is damaged.
    """
    return fingerprint(check_weights(section))


def fingerprint(files: Iterable[Path]) -> str:
    """sha256 over name, dtype, shape and a sample of the bytes of every tensor in these safetensors files."""
    found: dict[str, str] = {}
    for path in files:
        with path.open("rb") as file:
            found |= dict(_tensors(file))
    return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()


def _tensors(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Each tensor's name, and the hash of what it is. The layout: docs of safetensors, "Format"."""
    length = int.from_bytes(file.read(8), "little")
    header: dict[str, Any] = json.loads(file.read(length))
    for name, told in header.items():
        if name == "__metadata__":
            continue
        digest = hashlib.sha256(json.dumps([told["dtype"], told["shape"]]).encode())
        start, end = (8 + length + offset for offset in told["data_offsets"])
        for position, size in _pieces(start, end):
            file.seek(position)
            digest.update(file.read(size))
        yield name, digest.hexdigest()


def _pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where to read, and how much: from the first byte to the last, at even distances."""
    if end - start <= _PIECE * _PIECES:
        yield start, end - start
        return
    stride = (end - start - _PIECE) / (_PIECES - 1)
    for number in range(_PIECES):
        yield start + round(number * stride), _PIECE
