"""The scores of each row on the disk, one parquet file per split. No torch: reports are made on login nodes."""

# Dims: R rows.

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lora_dist.errors import StorageError
from lora_dist.store.atomic import make_folder, write_bytes

_SCHEMA = pa.schema([pa.field("nll", pa.float64(), nullable=False), pa.field("tokens", pa.int64(), nullable=False)])


def write_scores(path: Path, nll_R: np.ndarray, tokens_R: np.ndarray) -> None:
    """Write nll (nats, float64) and scored tokens (int64) of each row, atomically and bit for bit.

    Raises:
        StorageError: the disk is full or the folder is not writable.
        ValueError: the two differ in length.
    """
    if np.shape(nll_R) != np.shape(tokens_R):
        raise ValueError(f"{np.shape(nll_R)} nll values and {np.shape(tokens_R)} token counts")
    columns = [pa.array(np.asarray(nll_R, np.float64)), pa.array(np.asarray(tokens_R, np.int64))]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), buffer)
    make_folder(path.parent)
    write_bytes(path, buffer.getvalue())


def read_scores(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """nll float64 [R] and tokens int64 [R], as they were written.

    Raises:
        StorageError: there is no such file, or it is not one of scores.
    """
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, f"cannot be read ({error})") from error
    if not table.schema.remove_metadata().equals(_SCHEMA):
        raise _unreadable(path, f"has columns {table.schema.names}, not nll and tokens")
    return table["nll"].to_numpy(), table["tokens"].to_numpy()


def _unreadable(path: Path, problem: str) -> StorageError:
    return StorageError(key=str(path), problem=problem, fix="remove this run's record.json: it is then measured again")
