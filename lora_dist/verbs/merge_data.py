"""What a merge is measured on: the data of the run that trained its adapter, or those that the user names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lora_dist.config.expansion import expand
from lora_dist.config.experiment import Run
from lora_dist.config.loading import data_override, load_experiment, read_yaml
from lora_dist.config.problems import problems_of
from lora_dist.config.sections import ModelSection
from lora_dist.errors import ConfigError, Problem, Refused
from lora_dist.store.folders import RunFolder

_OF_PATH = ("path", "subset", "revision", "train_split", "validation_split", "eval_split")
"""Settings of the data section that go with one source of rows."""
_OF_BASE = ("model.path", "model.revision", "model.trust_remote_code")


def run_folder_of(adapter: Path) -> RunFolder | None:
    """The folder of the run that left this adapter's folder; None where there is none of ours."""
    folder = RunFolder(adapter.parent)
    return folder if folder.config.is_file() and folder.model == adapter else None


def run_to_measure(folder: RunFolder | None, base: ModelSection, data: str | None, words: Sequence[str]) -> Run | None:
    """The settings by which a merge is measured, on `base`; None where nobody says what on.

    Args:
        folder: of the run that trained the (first) adapter.
        data: a file, folder, hub id or builtin:NAME, instead of the run's data; its task, columns and lengths stay.
        words: overrides such as data.max_eval_examples=100.
    Raises:
        UserError: a setting is wrong.
    """
    for word in words:
        if word.partition("=")[0].strip() in ("model", *_OF_BASE):
            raise ConfigError(key=word, problem="is not to be set here", fix="name the base by --base and --revision")
    if folder is None and data is None and not words:
        return None
    sections = _sections_of(folder) if folder else {}
    model = {**sections.get("model", {}), **base.model_dump(mode="json", include={"path", "revision"})}
    own = {name: value for name, value in sections.get("data", {}).items() if data is None or name not in _OF_PATH}
    overrides = [
        f"model={_yaml(model | {'trust_remote_code': False})}",  # a file beside an adapter does not say what to trust
        *([f"data={_yaml(own)}"] if own else []),
        *([data_override(data)] if data is not None else []),
        *([f"evaluate={_yaml(sections['evaluate'])}"] if sections else []),
        *words,
        "method.kind=base",
        "evaluate.splits=[test]",
    ]
    return expand(load_experiment(None, overrides))[0].located()


def _sections_of(folder: RunFolder) -> dict[str, Any]:
    try:
        return Run.model_validate(read_yaml(folder.config)).model_dump(mode="json")
    except ValidationError as error:
        found = problems_of(error, Run)
        fix = "give other data (--data), or --no-evaluate"
        raise Refused(Problem(str(folder.config), f"{item.key}: {item.problem}", fix) for item in found) from error


def _yaml(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False)
