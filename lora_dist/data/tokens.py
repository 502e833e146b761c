"""Tokens on the disk: what every arm is trained on and scored on, identified by a hash of the ids themselves.

<experiment>/tokens/
├── <token_hash>/{train,validation,test}.parquet      columns input_ids and labels; manifest.json last
└── .lock                                              held while a set is written
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lora_dist.config.sections import SPLITS
from lora_dist.errors import StorageError
from lora_dist.store.atomic import make_folder, whole_folder
from lora_dist.store.lock import Held, exclusive
from lora_dist.store.manifest import flaw_of, read_manifest, write_manifest

NOT_SCORED = -100
SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
_POLL_S = 0.1


@dataclass(frozen=True)
class SplitFacts:
    """Counts over one split."""

    rows: int
    tokens: int
    scored_tokens: int
    """Tokens that the loss is on. The first of a row never is: nothing predicts it. classification: one per row."""
    scored_bytes: int
    """UTF-8 bytes of the text of the scored tokens, special tokens aside."""
    truncated: int
    """Rows cut at max_length."""
    longest: int
    """Tokens of the longest row."""
    label_counts: tuple[int, ...] | None = None
    """classification: rows of each label, in the order of `TokenFacts.labels`."""


@dataclass(frozen=True)
class TokenFacts:
    """What is known about a set of tokens without reading it."""

    token_hash: str
    """First 16 hex of the sha256 over ids and labels of all splits: equal hashes are equal tokens."""
    tokenizer_hash: str
    task: str
    bos: bool
    """Whether every document or example begins with the tokenizer's BOS."""
    splits: dict[str, SplitFacts]
    """By train, validation, test."""
    source_key: str
    """What the tokens were made of (see `tokenise.source_key`)."""
    max_length: int
    """No row is longer, in tokens."""
    labels: tuple[str, ...] | None = None
    """classification: what the classes 0, 1, ... are called, as train has them."""


class TokenRows:
    """The rows of one split: index -> (input_ids, labels), two int32 arrays of one length.

    Of a classification `labels` is one number, the row's class.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        """Columns input_ids and labels, both list<int32>; `datasets.Dataset(rows.table)` takes it as it is."""

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        position = index % len(self)
        ids, labels = (self.table.column(name)[position].values for name in SCHEMA.names)
        return ids.to_numpy(zero_copy_only=False), labels.to_numpy(zero_copy_only=False)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, int64."""
        chunks = [np.diff(chunk.offsets.to_numpy()) for chunk in self.table.column("input_ids").chunks]
        return np.concatenate(chunks, dtype=np.int64) if chunks else np.zeros(0, np.int64)


@dataclass(frozen=True)
class TokenisedData:
    """Freshly made tokens, in memory."""

    facts: TokenFacts
    tables: Mapping[str, pa.Table]

    def rows(self, split: str) -> TokenRows:
        """The rows of train, validation or test."""
        return TokenRows(self.tables[split])

    def save(self, tokens_folder: Path) -> TokenSet:
        """Write `<tokens_folder>/<token_hash>/`, or keep it when these very tokens are there and complete.

        Raises:
            StorageError: the disk is full, or the folder is not writable.
        """
        make_folder(tokens_folder)
        folder = tokens_folder / self.facts.token_hash
        with _alone(tokens_folder / ".lock"):
            keys = _source_keys(folder) if flaw_of(folder) is None else []
            if not keys:
                self._write(folder)
            elif self.facts.source_key not in keys:  # other settings, same tokens: they are found by both
                write_manifest(folder, _facts_document(self.facts, [*keys, self.facts.source_key]))
        return TokenSet(folder, self.facts)

    def _write(self, folder: Path) -> None:
        with whole_folder(folder) as aside:
            for split, table in self.tables.items():
                pq.write_table(table, aside / f"{split}.parquet", compression="zstd")
            write_manifest(aside, _facts_document(self.facts, [self.facts.source_key]))


@dataclass(frozen=True)
class TokenSet:
    """A complete set of tokens on the disk."""

    folder: Path
    facts: TokenFacts

    def rows(self, split: str) -> TokenRows:
        """The rows of train, validation or test, read into memory.

        Raises:
            StorageError: the file cannot be read.
        """
        try:
            return TokenRows(pq.read_table(self.folder / f"{split}.parquet", schema=SCHEMA))
        except (OSError, pa.ArrowException) as error:
            raise _broken(self.folder, f"{split}.parquet cannot be read ({error})") from error


def open_token_set(folder: Path) -> TokenSet:
    """The tokens in `folder`, after checking that every file is what was written.

    Raises:
        StorageError: it is not there, incomplete or changed.
    """
    flaw = flaw_of(folder)
    facts = _read_facts(folder) if flaw is None else None
    if facts is None:
        raise _broken(folder, flaw or "its manifest is of another version")
    return TokenSet(folder, facts)


def find_token_set(tokens_folder: Path, source_key: str) -> TokenSet | None:
    """The complete set that was made of `source_key`, or None. Broken ones are passed over; `save` replaces them."""
    for manifest in sorted(tokens_folder.glob("[0-9a-f]*/manifest.json")):
        folder = manifest.parent
        if source_key in _source_keys(folder) and flaw_of(folder) is None:
            facts = _read_facts(folder)
            if facts is not None:
                return TokenSet(folder, replace(facts, source_key=source_key))
    return None


def hash_of_tokens(tables: Mapping[str, pa.Table], labels: Sequence[str] | None = None) -> str:
    """First 16 hex of the sha256 over every split's name, row lengths, ids and labels, as little-endian integers.

    Args:
        labels: what the classes are called; they count too.
    """
    digest = hashlib.sha256(json.dumps(list(labels)).encode() if labels else b"")
    for split in SPLITS:
        rows = TokenRows(tables[split])
        digest.update(f"{split}:{len(rows)}:".encode())
        digest.update(rows.lengths.astype("<i8").tobytes())
        for name in SCHEMA.names:
            for chunk in rows.table.column(name).chunks:
                digest.update(chunk.flatten().to_numpy(zero_copy_only=False).astype("<i4").tobytes())
    return digest.hexdigest()[:16]


def _facts_document(facts: TokenFacts, source_keys: list[str]) -> dict[str, Any]:
    document = asdict(facts)
    del document["source_key"]
    return {"facts": document, "source_keys": source_keys}


def _source_keys(folder: Path) -> list[str]:
    manifest = read_manifest(folder) or {}
    keys = manifest.get("source_keys")
    return keys if isinstance(keys, list) and _read_facts(folder) is not None else []


def _read_facts(folder: Path) -> TokenFacts | None:
    manifest = read_manifest(folder) or {}
    try:
        document = dict(manifest["facts"])
        splits = {name: SplitFacts(**_with_tuples(facts)) for name, facts in document.pop("splits").items()}
        return TokenFacts(**_with_tuples(document), splits=splits, source_key=manifest["source_keys"][0])
    except (KeyError, TypeError, IndexError, AttributeError):  # made by another version
        return None


def _with_tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}


def _alone(lock: Path) -> ExitStack:
    """Hold the lock; wait for another process that writes tokens here."""
    while True:
        stack = ExitStack()
        try:
            stack.enter_context(exclusive(lock))
        except Held:
            time.sleep(_POLL_S)
        else:
            return stack


def _broken(folder: Path, flaw: str) -> StorageError:
    return StorageError(
        key=str(folder),
        problem=f"not a complete set of tokens: {flaw}",
        fix="run the same command again: it is rebuilt",
    )
