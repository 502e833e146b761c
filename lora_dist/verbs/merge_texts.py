"""What a merge writes down about itself: merge.json, and the model card."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lora_dist
from lora_dist.config.loading import load_experiment
from lora_dist.errors import UserError
from lora_dist.reporting.model_card import data_name, is_hub_id, model_card
from lora_dist.store.folders import RunFolder, dump_yaml
from lora_dist.store.manifest import file_hash

if TYPE_CHECKING:
    from lora_dist.models.adapter_folder import AdapterFolder
    from lora_dist.models.merge_stream import MergedWeights, StreamedMerge
    from lora_dist.verbs.merge import MergeRequest

VERSION = 1
_NOT_FOR_OTHERS = ("launch", "output_dir")
"""Sections of an experiment that say how this machine is used, and may hold what is nobody's business."""
_FEW_ZEROS = 0.01


@dataclass(frozen=True)
class Texts:
    """All that is known before the merge."""

    request: MergeRequest
    facts: dict[str, Any]
    experiment: str | None
    """The YAML by which the first adapter was trained."""

    @classmethod
    def gather(
        cls, request: MergeRequest, merge: StreamedMerge, fingerprint: str, run_folder: RunFolder | None
    ) -> Texts:
        """What is to be told of base and adapters.

        Args:
            fingerprint: of the base.
            run_folder: of the run that trained the first adapter.
        """
        weights = merge.combination.weights
        adapters = [_told(*pair, fingerprint) for pair in zip(merge.adapters, weights, strict=True)]
        first = adapters[0]["provenance"] if adapters[0]["base"] == "same" else None
        facts = {
            "version": VERSION,
            "lora_dist": lora_dist.__version__,
            "name": request.into.absolute().name,
            "base": {
                "path": merge.base.path,
                "revision": merge.base.revision,
                "fingerprint": fingerprint,
                "source": first["base"]["source"] if first else None,
            },
            "kind": merge.kind,
            "adapters": adapters,
            "combination": merge.combination.described(),
            "keep_zeros": merge.keeps_zeros,
            "dtype": request.dtype,
            "forced": any(adapter["base"] == "forced" for adapter in adapters),
        }
        return cls(request, facts, _experiment(run_folder))

    @property
    def names(self) -> list[str]:
        """Of the adapters, without the folders of this machine."""
        return [adapter["name"] for adapter in self.facts["adapters"]]

    def of(
        self, merged: MergedWeights, evaluation: dict[str, Any] | None, not_evaluated: str | None
    ) -> tuple[dict[str, Any], str]:
        """merge.json and the card.

        Args:
            evaluation: the scores, see pipeline/merge_scores.py.
            not_evaluated: why there are none.
        """
        document = self.facts | {
            "merged": asdict(merged),
            "notes": _notes(self.facts["adapters"], merged),
            "evaluation": evaluation,
            "not_evaluated": not_evaluated,
        }
        card = model_card(_portable(document), command=self._command(), experiment=self.experiment)
        return document, card

    def _command(self) -> str:
        """What was typed, with names instead of this machine's folders."""
        asked, how = self.request, self.request.combination
        words = ["lora-dist", "adapter", "merge", *self.names, "--into", self.facts["name"]]
        words += ["--base", _place_name(asked.base)] if asked.base else []
        words += ["--revision", asked.revision] if asked.revision else []
        if how is not None:
            settings = how.described()
            words += ["--method", how.method, "--weights", ",".join(f"{weight:g}" for weight in how.weights)]
            words += [
                part for name in ("density", "seed") if name in settings for part in (f"--{name}", f"{settings[name]}")
            ]
        words += ["--keep-zeros"] if asked.keep_zeros else []
        words += ["--dtype", asked.dtype] if asked.dtype else []
        words += ["--force"] if asked.force else []
        words += [] if asked.evaluate else ["--no-evaluate"]
        words += ["--data", _place_name(asked.data)] if asked.data else []
        return shlex.join([*words, *asked.words])


def portable(document: Mapping[str, Any]) -> bytes:
    """merge.json for others."""
    return json.dumps(_portable(document), indent=2, ensure_ascii=False).encode() + b"\n"


def _portable(document: Mapping[str, Any]) -> dict[str, Any]:
    """merge.json with names instead of this machine's folders."""
    adapters = []
    for adapter in document["adapters"]:
        told = adapter["provenance"]
        if told is not None:
            base = {
                **told["base"],
                "path": _place_name(told["base"]["path"]),
                "source": _place_name(told["base"]["source"]),
            }
            told = told | {"base": base, "data": data_name(told["data"])}
        adapters.append({name: value for name, value in adapter.items() if name != "path"} | {"provenance": told})
    base = document["base"]
    named = {"path": _place_name(base["path"]), "source": _place_name(base["source"])}
    return {**document, "base": base | named, "adapters": adapters}


def _told(adapter: AdapterFolder, weight: float, fingerprint: str) -> dict[str, Any]:
    told = adapter.provenance
    same = told is not None and told.base.fingerprint == fingerprint
    return {
        "name": _name_of(adapter),
        "path": str(adapter.path) if adapter.is_local else adapter.name,
        "sha256": file_hash(adapter.weights),
        "weight": weight,
        "base": "unknown" if told is None else "same" if same else "forced",
        "provenance": told.model_dump(mode="json") if told else None,
    }


def _name_of(adapter: AdapterFolder) -> str:
    """A hub id, <experiment>/<run-id> of one of ours, or the folder's name."""
    if not adapter.is_local:
        return adapter.name
    run = adapter.path.parent
    if (run / "config.yaml").is_file() and RunFolder(run).model == adapter.path:
        return f"{run.parent.name}/{run.name}"
    return adapter.path.name


def _place_name(path: str | None) -> str | None:
    """A hub id or built-in name as it is; of a folder or file its name."""
    if path is None or is_hub_id(path) or path.startswith("builtin:"):
        return path
    return Path(path).name or path


def _notes(adapters: list[dict[str, Any]], merged: MergedWeights) -> list[str]:
    """What a user has to know."""
    notes = []
    for adapter in adapters:
        told = adapter["provenance"]
        if adapter["base"] == "unknown":
            notes.append(
                f"{adapter['name']} does not say on which weights it was trained: that it was on these was not checked"
            )
        elif adapter["base"] == "forced":
            trained_on = told["base"]["fingerprint"][:12]
            notes.append(f"{adapter['name']} was trained on other weights ({trained_on}...): merged by --force")
        if told is not None and told["method"].get("kind") == "qlora":
            notes.append(
                f"{adapter['name']} was trained on the base in 4 bit, and is merged into the weights before that"
            )
    if merged.filled and merged.zeros_before > _FEW_ZEROS * merged.weights:
        notes.append(
            f"{merged.filled:,} of the base's {merged.zeros_before:,} zeros are filled; --keep-zeros keeps them"
        )
    return notes


def _experiment(run_folder: RunFolder | None) -> str | None:
    """The experiment file of a run, without defaults and this machine's own; None where it is not there any more."""
    if run_folder is None or not run_folder.experiment.experiment.is_file():
        return None
    try:
        experiment = load_experiment(run_folder.experiment.experiment)
    except UserError:
        return None
    kept = experiment.model_dump(mode="json", exclude_defaults=True, exclude=set(_NOT_FOR_OTHERS))
    return dump_yaml(_without_tokens(kept))


def _without_tokens(value: Any) -> Any:
    """`train.extra` takes any field of transformers, such as hub_token."""
    if isinstance(value, dict):
        return {name: _without_tokens(part) for name, part in value.items() if not str(name).endswith("_token")}
    return [_without_tokens(part) for part in value] if isinstance(value, list) else value
