"""What a classifier said of each row, on the disk: one parquet file per split. No torch: reports read it."""

# Dims: R rows.

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lora_dist.errors import StorageError
from lora_dist.store.atomic import make_folder, write_bytes

_SCHEMA = pa.schema(
    [
        pa.field("nll", pa.float64(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("predicted", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ClassScores:
    """The rows of one split, in their order."""

    nll_R: np.ndarray  # noqa: N815
    """Negative log-likelihood of each row's own class, in nats, float64."""
    label_R: np.ndarray  # noqa: N815
    """Its class, int32."""
    predicted_R: np.ndarray  # noqa: N815
    """The class of the highest logit (the first of equal ones), int32."""

    def write(self, path: Path) -> None:
        """Write them atomically and bit for bit.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        columns = [pa.array(self.nll_R, pa.float64())]
        columns += [pa.array(values, pa.int32()) for values in (self.label_R, self.predicted_R)]
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns, schema=_SCHEMA), buffer)
        make_folder(path.parent)
        write_bytes(path, buffer.getvalue())


def read_class_scores(path: Path) -> ClassScores:
    """The scores as they were written.

    Raises:
        StorageError: there is no such file, or it is not one of these.
    """
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path, f"cannot be read ({error})") from error
    if not table.schema.remove_metadata().equals(_SCHEMA):
        raise _unreadable(path, f"has columns {table.schema.names}, not {_SCHEMA.names}")
    return ClassScores(*(table[name].to_numpy() for name in _SCHEMA.names))


def _unreadable(path: Path, problem: str) -> StorageError:
    return StorageError(key=str(path), problem=problem, fix="remove this run's record.json: it is then measured again")
