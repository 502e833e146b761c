"""A merged model's folder: the weights and what stands beside them, whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lora_dist.models.companions import companions
from lora_dist.models.merge_stream import MergedWeights, StreamedMerge
from lora_dist.models.weights import source_file
from lora_dist.store.atomic import check_free, whole_folder, write_errors, write_json, write_text

DOCUMENT = "merge.json"
CARD = "README.md"
_PRUNING = "pruning.json"
Progress = Callable[[str, int, int, str], None]
Texts = Callable[[MergedWeights], tuple[dict[str, Any], str]]
"""merge.json and the card, once the counts are known."""


class MergedFolder:
    """What a merge writes, and where."""

    def __init__(self, merge: StreamedMerge, place: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read the small files, and make sure that all fits on the disk.

        Raises:
            ModelError: the base is not there.
            StorageError: the disk has no room.
        """
        self.merge, self.place = merge, place
        dtypes = merge.dtypes()
        self.files = companions(merge.base, tokenizer, dtypes.pop() if len(dtypes) == 1 else None)
        if merge.keeps_zeros and (pruning := source_file(merge.base, _PRUNING)) is not None:
            self.files[_PRUNING] = pruning.read_bytes()  # by it the next LoRA on the merged model keeps the zeros
        there = next(parent for parent in place.absolute().parents if parent.exists())
        needed = merge.bytes() + sum(map(len, self.files.values()))
        check_free(there, needed, "the merged model", "free some space, or choose another --into")

    def write(self, texts: Texts, progress: Progress) -> MergedWeights:
        """Merge, and put the folder in its place, complete.

        The sums are taken on the CPU, where `dare` draws the same on every machine.

        Raises:
            StorageError: the disk is full, or the folder cannot be made.
        """
        with _no_new_parents(self.place), write_errors(self.place), whole_folder(self.place) as aside:
            found = self.merge.write(
                aside, lambda done, total, name: progress("merge", done, total, name), torch.device("cpu")
            )
            for name, content in self.files.items():
                (aside / name).write_bytes(content)
            write_texts(aside, *texts(found))
        return found


def write_texts(folder: Path, document: Mapping[str, Any], card: str) -> None:
    """Write (or replace) merge.json and the model card.

    Raises:
        StorageError: the disk is full.
    """
    write_json(folder / DOCUMENT, document)
    write_text(folder / CARD, card)


@contextlib.contextmanager
def _no_new_parents(place: Path) -> Iterator[None]:
    """What fails leaves no empty folders above the place either."""
    new = [parent for parent in place.absolute().parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in new:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
