"""The calibration tokens: the train split laid end to end, cut into samples of one length."""

# Dims: N samples, T tokens of a sample.

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lora_dist.config.pruning import USUAL_LENGTH, CalibrationSection
from lora_dist.data.tokens import TokenRows
from lora_dist.errors import ConfigError, DataError


def calibration_length(section: CalibrationSection, context: int | None) -> int:
    """Tokens per sample, for a model with `context` positions (None: unknown).

    Raises:
        ConfigError: more than the model's context.
    """
    length = section.length or min(USUAL_LENGTH, context or USUAL_LENGTH)
    if context is not None and length > context:
        raise ConfigError(
            key="prune.calibration.length",
            problem=f"{length} tokens are more than the model's context of {context}",
            fix=f"give at most {context}, or null for {min(USUAL_LENGTH, context)}",
        )
    return length


def check_enough(section: CalibrationSection, tokens: int, length: int) -> None:
    """Make sure that the train split fills all samples.

    Raises:
        DataError: it does not.
    """
    if tokens < length:
        raise DataError(
            key="prune.calibration.length",
            problem=f"the train split has {tokens:,} tokens, less than one sample of {length:,}",
            fix="lower prune.calibration.length, or give more text (prune.calibration.data)",
        )
    if tokens < section.samples * length:
        raise DataError(
            key="prune.calibration.samples",
            problem=f"{section.samples} x {length:,} = {section.samples * length:,} tokens are asked for, and the "
            f"train split has {tokens:,}",
            fix=f"lower it to {tokens // length}, or give more text (prune.calibration.data)",
        )


def calibration_ids(rows: TokenRows, section: CalibrationSection, length: int) -> Tensor:
    """The first samples x length token ids of `rows`, ids_NT; of shuffled rows, if asked for.

    Raises:
        DataError: there are not enough.
    """
    check_enough(section, int(rows.lengths.sum()), length)
    wanted = section.samples * length
    order: Iterable[int] = range(len(rows))
    if section.shuffle:
        order = np.random.default_rng(section.seed).permutation(len(rows))
    pieces, have = [], 0
    for index in order:
        ids, _ = rows[int(index)]
        pieces.append(ids)
        have += len(ids)
        if have >= wanted:
            break
    stream = np.concatenate(pieces)[:wanted].astype(np.int64)
    return torch.from_numpy(stream).view(section.samples, length)


def hash_of_ids(ids_NT: Tensor) -> str:
    """First 16 hex of the sha256 over the shape and the ids."""
    digest = hashlib.sha256(repr(tuple(ids_NT.shape)).encode())
    digest.update(ids_NT.numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]
