"""A pruned model on the disk, block by block: an ordinary Hugging Face folder, with masks beside the weights.

<experiment>/pruned/
├── <key>/                                complete: it has this name
│   ├── model-00001-of-00009.safetensors  one shard for each block, then those of the rest (embeddings, norm, head)
│   ├── masks/model-00001-of-00009.safetensors
│   ├── model.safetensors.index.json  config.json  tokenizer.json ...
│   ├── pruning.json                      settings, and a report for each linear
│   └── manifest.json                     written last
└── .<key>.partial/                       being written; blocks/00000.json says that the files of a block are whole
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_dist.errors import StorageError
from lora_dist.models import masks
from lora_dist.store.atomic import make_folder, whole_file, whole_folder, write_bytes, write_json
from lora_dist.store.manifest import file_hash, flaw_of, read_manifest, write_manifest

log = logging.getLogger(__name__)

REPORT = "pruning.json"
INDEX = "model.safetensors.index.json"
_STATE = "state.json"
_BLOCKS = "blocks"


@dataclass(frozen=True)
class BlockFiles:
    """One block that is on the disk."""

    number: int
    files: dict[str, dict[str, Any]]
    """Bytes and sha256 by file name."""
    names: list[str]
    """The tensors in its shard, under the names of the source."""
    facts: dict[str, Any]
    """Report of its linears, seconds, memory."""


class PrunedModel:
    """The folder that a pruning fills. Only rank 0 writes; every rank may read."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.folder, self.shards = folder, shards
        self.partial = folder.with_name(f".{folder.name}.partial")

    @property
    def is_complete(self) -> bool:
        """Whether the model is there, whole."""
        return flaw_of(self.folder, contents=False) is None

    def begin(self, state: Mapping[str, Any]) -> None:
        """Take up what another attempt left, if it was made of the same; begin anew otherwise.

        Args:
            state: what the blocks depend on beside the key: the source's files, the tokens, the precision.
        Raises:
            StorageError: the folder cannot be written.
        """
        path = self.partial / _STATE
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before is not None and before != dict(state):
            log.warning("%s was begun from other weights or tokens: its blocks are pruned anew", self.partial)
            shutil.rmtree(self.partial)
        make_folder(self.partial / _BLOCKS)
        make_folder(self.partial / masks.FOLDER)
        if before != dict(state):
            write_json(path, dict(state))

    def shard_name(self, number: int) -> str:
        """The file of block `number`, or of a part of the rest after the blocks."""
        return f"model-{number + 1:05d}-of-{self.shards:05d}.safetensors"

    def done(self, *, contents: bool = True) -> dict[int, BlockFiles]:
        """The blocks whose files are all as they were written."""
        found = {}
        for path in sorted((self.partial / _BLOCKS).glob("*.json")):
            try:
                block = BlockFiles(**json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            if all(self._is_whole(name, told, contents=contents) for name, told in block.files.items()):
                found[block.number] = block
            else:
                log.warning("block %d is not as it was written: it is pruned anew", block.number)
        return found

    def _is_whole(self, name: str, told: Mapping[str, Any], *, contents: bool) -> bool:
        path = self.partial / name
        if not path.is_file() or path.stat().st_size != told["bytes"]:
            return False
        return not contents or file_hash(path) == told["sha256"]

    def forget_after(self, number: int) -> None:
        """Take back every block from `number` on."""
        for path in (self.partial / _BLOCKS).glob("*.json"):
            if int(path.stem) >= number:
                path.unlink()

    def write_block(
        self, number: int, tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor], facts: dict[str, Any]
    ) -> None:
        """Write a block's weights and masks; its entry, last, makes it count.

        Raises:
            StorageError: the disk is full.
        """
        names = [self.shard_name(number)]
        with whole_file(self.partial / names[0]) as aside:
            _save(tensors, aside)
        if kept:
            names.append(f"{masks.FOLDER}/{names[0]}")
            with whole_file(self.partial / names[1]) as aside:
                masks.write_masks(aside, kept)
        files = {name: self._told(name) for name in names}
        entry = BlockFiles(number, files, sorted(tensors), facts)
        write_json(self.partial / _BLOCKS / f"{number:05d}.json", vars(entry))

    def _told(self, name: str) -> dict[str, Any]:
        path = self.partial / name
        return {"bytes": path.stat().st_size, "sha256": file_hash(path)}

    def read_block(self, number: int) -> Iterator[tuple[str, Tensor]]:
        """The weights of a block that is done, under the names of the source."""
        with safe_open(self.partial / self.shard_name(number), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)

    def write_rest(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write one shard of what is not in a block.

        Raises:
            StorageError: the disk is full.
        """
        with whole_file(self.partial / self.shard_name(number)) as aside:
            _save(tensors, aside)

    def finish(self, rest: Mapping[int, list[str]], texts: Mapping[str, bytes], report: dict[str, Any]) -> None:
        """Write index and report, then the manifest, and give the folder its name.

        Args:
            rest: names of the tensors in each shard after the blocks.
            texts: other files, such as config.json.
            report: what pruning.json says beside its blocks.
        Raises:
            StorageError: the disk is full.
        """
        done = self.done(contents=False)
        for name, content in texts.items():
            write_bytes(self.partial / name, content)
        shard_of = {number: block.names for number, block in done.items()} | dict(rest)
        weight_map = {name: self.shard_name(number) for number, names in shard_of.items() for name in names}
        size = sum((self.partial / name).stat().st_size for name in set(weight_map.values()))
        write_json(self.partial / REPORT, report | {"blocks": [done[number].facts for number in sorted(done)]})
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(self.partial / INDEX, index)
        with whole_folder(self.folder) as aside:
            _link_tree(self.partial, aside, leave_out=(_BLOCKS, _STATE))
            write_manifest(aside, {"pruning_key": self.folder.name})
        shutil.rmtree(self.partial)  # only now: what is killed before this goes on from its blocks


def link_model(shared: Path, place: Path) -> None:
    """Put the pruned model into a run's folder: the same files under another name, which take no space.

    Raises:
        StorageError: the folder cannot be written.
    """
    with whole_folder(place) as aside:
        _link_tree(shared, aside)


def _link_tree(source: Path, target: Path, leave_out: tuple[str, ...] = ()) -> None:
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if inner.parts[0] in leave_out or path.name.endswith(".tmp"):
            continue
        if path.is_dir():
            (target / inner).mkdir()
            continue
        try:
            os.link(path, target / inner)
        except OSError:  # a disk without hard links
            shutil.copyfile(path, target / inner)


def holds_pruning(place: Path, key: str) -> bool:
    """Whether a folder is the whole pruned model of this key."""
    return flaw_of(place, contents=False) is None and (read_manifest(place) or {}).get("pruning_key") == key


def read_report(folder: Path) -> dict[str, Any]:
    """What pruning.json says.

    Raises:
        StorageError: it is not there, or damaged.
    """
    try:
        return json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            key=str(folder / REPORT), problem=f"cannot be read: {error}", fix="remove that folder: it is pruned anew"
        ) from None


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})
