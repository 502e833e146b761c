"""Rows of tokens -> the table of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lora_dist.data.masks import Row
from lora_dist.data.tokens import SCHEMA, SplitFacts

_CHUNK = 2**16  # rows per chunk of a column


@dataclass(frozen=True)
class MadeSplit:
    """The tokens of one split, and what is known about them."""

    table: pa.Table
    facts: SplitFacts
    bos: bool
    """Whether every document or example begins with the tokenizer's BOS."""


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Columns input_ids and labels; in chunks, as the offsets of one list array end at 2^31 tokens."""
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    columns = [pa.chunked_array([_lists([row.ids for row in chunk]) for chunk in chunks], SCHEMA[0].type)]
    columns += [pa.chunked_array([_lists([row.labels for row in chunk]) for chunk in chunks], SCHEMA[1].type)]
    return pa.table(columns, schema=SCHEMA)


def _lists(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(arrays)))
