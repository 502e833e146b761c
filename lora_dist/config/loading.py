"""From a YAML file (or a recipe's name) and `a.b=c` overrides to an `Experiment`."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lora_dist.assets import recipe_names, recipe_path
from lora_dist.config.experiment import Experiment
from lora_dist.config.problems import problems_of
from lora_dist.errors import ConfigError, Problem, Refused

NAME_WITHOUT_FILE = "experiment"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """SafeLoader that refuses a key given twice (YAML's silent last-one-wins) and reads 1e-4 as a number.

    On libyaml where PyYAML was built with it: a sweep of 2,000 points is read in a tenth of the time.
    """


def _mapping_without_twins(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key} is not a text", key_node.start_mark)
        if key in mapping:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_twins)
# No setting is a date: 2024-01-01 is a text, such as a name. Nor is 2:4 the number 124 (YAML 1.1 counts in sixties).
_UNWANTED = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _UNWANTED]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(0b[0-1_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
# YAML 1.1 wants a dot in the mantissa and a sign in the exponent; people write 1e-4.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_experiment(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment.

    Args:
        source: path of a YAML file, the name of a recipe, or None when the overrides say enough.
        overrides: `a.b=c` settings, applied in order; values are YAML.
    Raises:
        Refused: with every mistake found, each naming its key and the fix.
        ConfigError: the file cannot be read at all.
    """
    document, stem = ({}, NAME_WITHOUT_FILE) if source is None else _read(source)
    problems = [problem for override in overrides if (problem := _apply(document, override))]
    if document.get("name") is None:
        document["name"] = stem
    try:
        experiment = Experiment.model_validate(document)
    except ValidationError as error:
        raise Refused([*problems, *problems_of(error)]) from None
    if problems:
        raise Refused(problems)
    return experiment


def data_override(data: str) -> str:
    """The override by which one model is measured on `data`: all of a file is to be scored, so it is the test split."""
    value = {"train": data, "test": data} if Path(data).is_file() else data
    return f"data.path={json.dumps(value, ensure_ascii=False)}"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: not readable, not YAML, or not a mapping; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(key=str(path), problem="no such file", fix=_what_there_is(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(key=str(path), problem=f"cannot be read: {error}", fix="give a text file") from None
    return parse_mapping(text, str(path))


def parse_mapping(text: str, name: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; `name` is what errors call it."""
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a tag such as !!int before what is none
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or error
        raise ConfigError(key=f"{name}{where}", problem=f"cannot be read: {what}", fix="correct that line") from None
    if not isinstance(document, dict):
        kind = "empty" if document is None else f"a {type(document).__name__}"
        raise ConfigError(key=name, problem=f"is {kind}, not a mapping", fix="start with model: and data:")
    return document


def _read(source: str | Path) -> tuple[dict[str, Any], str]:
    path = Path(source)
    if path.is_dir():
        path = path / "experiment.yaml"  # an experiment's own folder is as good as its file
    if not path.exists() and str(source) in recipe_names():
        path = recipe_path(str(source))
    stem = path.parent.name if path.name == "experiment.yaml" else path.stem
    return read_yaml(path), stem


def _what_there_is(path: Path) -> str:
    close = difflib.get_close_matches(str(path), recipe_names(), n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"{guess}give the path of a YAML file or a recipe ({', '.join(recipe_names())})"


def _apply(document: dict[str, Any], override: str) -> Problem | None:
    """Set one `a.b=c` in `document`, or say what is wrong with it."""
    key, sign, text = override.partition("=")
    parts = key.strip().split(".")
    if not sign or not all(parts):
        fix = "write key=value, such as train.epochs=2 (one experiment file at a time, and it comes first)"
        return Problem(override, "is not an override", fix)
    try:
        value = yaml.load(text, _Loader) if text.strip() else None  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError):
        return Problem(key, f"the value {text!r} is not YAML", "quote it")
    here = document
    for depth, part in enumerate(parts[:-1], start=1):
        below = here.get(part)
        if below is None:
            below = here[part] = {}
        if not isinstance(below, dict):
            return Problem(key, f"'{'.'.join(parts[:depth])}' is not a mapping", "override that key as a whole")
        here = below
    here[parts[-1]] = value
    return None
