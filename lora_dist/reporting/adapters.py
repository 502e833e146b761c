"""The adapters below a folder, and what their files tell: no weights are read and no torch is imported."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lora_dist.assets import user_path
from lora_dist.config.sections import LORA_KINDS
from lora_dist.errors import UserError
from lora_dist.models.adapter_files import CONFIG, PEFT_TYPE, WEIGHTS, StoredTensor, read_header
from lora_dist.models.provenance import PRUNED_BESIDE, Provenance, read_provenance
from lora_dist.store.folders import RunFolder
from lora_dist.store.record import Record

CHECKPOINTS = "checkpoints"
_ADAPTERS_OF_RUNS = "model"
_OTHERS_FILES = ("adapter_model.bin",)  # pickles: never opened
FINISHED, UNFINISHED, NO_RUN = "finished", "unfinished", "no run"


@dataclass(frozen=True)
class AdapterRow:
    """One adapter, as far as its files tell."""

    path: str
    """Relative to the folder that was looked into; `.` where that is the adapter itself."""
    problem: str = ""
    """What is damaged; empty where nothing is."""
    base: str | None = None
    """The model to give as BASE: a hub id, a folder or builtin:NAME."""
    base_name: str | None = None
    """Its short name; "pruned NAME" where it is pruned."""
    kind: str | None = None
    """lora, qlora, prefix or ia3, where that is told; else peft's word, in small letters."""
    dora: bool = False
    rslora: bool = False
    keeps_zeros: bool = False
    """Whether its update leaves the zeros of a pruned base."""
    rank: int | None = None
    """The highest, where its linears differ."""
    alpha: float | None = None
    virtual_tokens: int | None = None
    """Of a prefix."""
    targets: list[str] | str | None = None
    """all-linear, the last parts of the names, or a pattern of names."""
    task: str | None = None
    data: str | None = None
    """The last part of the data's path."""
    seed: int | None = None
    label: str | None = None
    """Of the run that trained it."""
    run_id: str | None = None
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By split, each metric of the run's record that has a 95% interval: {value, ci95}."""
    bytes: int = 0
    """All files of its folder."""
    state: str = NO_RUN
    """finished: its run has a record. unfinished: it has none. no run: the adapter stands by itself."""

    @property
    def perplexity(self) -> float:
        """On test; infinite where it is not known."""
        return self.scores.get("test", {}).get("perplexity", {}).get("value", math.inf)

    @property
    def to_type(self) -> str:
        """What `adapter generate` takes: the run's folder where there is one, for it is shorter."""
        return self.path.removesuffix(f"/{_ADAPTERS_OF_RUNS}") if self.state != NO_RUN else self.path

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def adapters_below(folder: Path, *, checkpoints: bool = False) -> list[AdapterRow]:
    """A row for each adapter in `folder` and below it, by task, data and perplexity."""
    rows = [_row(found, _relative(found, folder)) for found in _folders(folder, checkpoints=checkpoints)]
    return sorted(rows, key=lambda row: (row.task is None, row.task or "", row.data or "", row.perplexity, row.path))


def _relative(found: Path, folder: Path) -> str:
    return found.relative_to(folder).as_posix()


def _folders(top: Path, *, checkpoints: bool) -> Iterator[Path]:
    """Folders with an adapter's config. Each is entered once, by its own name before a link to it: links make rings."""
    seen: set[tuple[int, int]] = set()
    waiting, linked = [top], []
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        try:
            told = folder.stat()
            if (told.st_dev, told.st_ino) in seen:
                continue
            seen.add((told.st_dev, told.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name, reverse=True)
        except OSError:  # not ours to read, or gone meanwhile
            continue
        if any(entry.name == CONFIG for entry in inside):
            yield folder
        for entry in inside:
            is_skipped = entry.name.startswith(".") or (entry.name == CHECKPOINTS and not checkpoints)
            if not is_skipped and entry.is_dir():
                (linked if entry.is_symlink() else waiting).append(folder / entry.name)


def _row(folder: Path, path: str) -> AdapterRow:
    """What the files tell; what cannot be read is said in the row."""
    told: dict[str, Any] = {"bytes": _bytes_in(folder)}
    problems = []
    for read in (_from_config, _from_weights, _from_provenance, _from_run):
        try:
            told |= read(folder, told)
        except UserError as error:
            problems += [f"{problem.key.removeprefix(f'{folder}/')}: {problem.problem}" for problem in error.problems]
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            problems.append(f"{CONFIG}: is damaged ({' '.join(str(error).split())[:200]})")
    return AdapterRow(path=path, problem="; ".join(problems), **told)


def _bytes_in(folder: Path) -> int:
    """Of the files in the folder itself and below; what vanishes meanwhile is not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size  # noqa: PTH116, PTH118 - half the time of Path
            except OSError:
                continue
    return total


def _from_config(folder: Path, _: dict[str, Any]) -> dict[str, Any]:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    kind = str(config["peft_type"])
    keeps = kind == PEFT_TYPE
    base = config.get("base_model_name_or_path")
    ranks = [config["r"], *config.get("rank_pattern", {}).values()] if "r" in config else [None]
    alpha = config.get("lora_alpha")
    return {
        "base": str(base) if base else None,
        "base_name": _base_name(str(base)) if base else None,
        "kind": "lora" if keeps else kind.lower(),
        "dora": bool(config.get("use_dora")),
        "rslora": bool(config.get("use_rslora")),
        "keeps_zeros": keeps,
        "rank": None if ranks[0] is None else max(int(rank) for rank in ranks),
        "alpha": None if alpha is None else float(alpha),
        "virtual_tokens": config.get("num_virtual_tokens"),
        "targets": _short_targets(config.get("target_modules")),
    }


def _short_targets(targets: list[str] | str | None) -> list[str] | str | None:
    if not isinstance(targets, list):
        return targets
    return sorted({str(name).rpartition(".")[2] for name in targets})


def _from_weights(folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    """The file is as long as its header says, and not empty. Its ranks are what counts, whatever the config says."""
    if any((folder / name).is_file() for name in _OTHERS_FILES) and not (folder / WEIGHTS).exists():
        raise ValueError("its weights are a pickle, not safetensors")
    tensors = read_header(folder / WEIGHTS)
    ranks = [_rank(tensor) for name, tensor in tensors.items() if "lora_A" in name]
    return {"rank": max(ranks)} if ranks else {"rank": told.get("rank")}


def _rank(lora_a: StoredTensor) -> int:
    return lora_a.shape[0] if lora_a.shape else 0


def _from_provenance(folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    provenance = read_provenance(folder)
    if provenance is None:
        return {}
    targets, kind = provenance.method.get("targets"), str(provenance.method.get("kind", told.get("kind")))
    return {
        **_base_of(provenance, folder),
        "kind": kind,
        "keeps_zeros": provenance.preserves_sparsity,
        "targets": targets if targets == "all-linear" and kind in LORA_KINDS else told.get("targets"),
        "task": provenance.task,
        "data": _data_name(provenance.data),
        "seed": provenance.seed,
        "label": provenance.label,
        "run_id": provenance.run_id,
    }


def _base_of(provenance: Provenance, folder: Path) -> dict[str, Any]:
    base = provenance.base
    if base.path == PRUNED_BESIDE:
        return {"base": str((folder / PRUNED_BESIDE).resolve()), "base_name": f"pruned {_last(base.source or '?')}"}
    return {"base": base.path, "base_name": _base_name(base.path)}


def _base_name(base: str) -> str:
    is_pruned = (user_path(base) / "pruning.json").is_file()
    return f"pruned {_last(base)}" if is_pruned else _last(base)


def _last(path: str) -> str:
    """The last part of a hub id or a path; of `<run>/pruned` and `<run>/model` the run's name."""
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    if len(parts) > 1 and parts[-1] in ("pruned", _ADAPTERS_OF_RUNS):
        parts.pop()
    return parts[-1] if parts else path


def _data_name(data: Any) -> str:
    """`data.path` of a run: a path or hub id, or a mapping of splits to files."""
    if isinstance(data, dict):
        data = data.get("train") or next(iter(data.values()), "")
    if isinstance(data, list):
        data = data[0] if data else ""
    return _last(str(data))


def _from_run(folder: Path, _: dict[str, Any]) -> dict[str, Any]:
    """From the record of the run whose `model/` this is."""
    run = RunFolder(folder.parent)
    if folder.name != run.model.name or not (run.config.is_file() or run.record.is_file()):
        return {}
    record = run.read_record()
    if record is None:
        return {"state": UNFINISHED}
    return {"state": FINISHED, "run_id": record.run_id, "label": record.label, "scores": _scores(record)}


def _scores(record: Record) -> dict[str, dict[str, Any]]:
    return {
        split: {name: {"value": found.get(name), "ci95": ci95} for name, ci95 in found.get("ci95", {}).items()}
        for split, found in record.evaluate.items()
    }
