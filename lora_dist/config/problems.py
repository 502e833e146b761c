"""pydantic's findings in the user's terms: the dotted key, what is wrong, and the fix."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from lora_dist.config.experiment import Arm, Experiment
from lora_dist.errors import Problem

_FIX_OF_TYPE = {
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "finite_number": "give a finite number",
    "bool_for_number": "give a number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "string_type": "give a text",
    "string_too_short": "give a text that is not empty",
    "string_too_long": "give a shorter one",
    "list_type": "give a list, such as [a, b]",
    "dict_type": "give a mapping, such as {key: value}",
    "model_type": "give a mapping, such as {key: value}",
    "too_short": "give at least one",
    "string_pattern_mismatch": "use letters, digits, '.', '_' and '-', starting with a letter or digit",
}
_EXAMPLES = {
    "model": "model: {path: meta-llama/Llama-3.2-1B}",
    "model.path": "model.path: meta-llama/Llama-3.2-1B",
    "data": "data: {task: instruction, path: openai/gsm8k, subset: main}",
    "data.path": "data.path: train.jsonl",
    "data.task": "data.task: causal_lm, instruction or classification",
    "name": "name: my-experiment",
}


def nearest(name: str, valid: Iterable[str]) -> str:
    """A fix for a misspelt name: the closest valid one first, then all of them."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return (f"did you mean '{close[0]}'? " if close else "") + f"valid here: {', '.join(names)}"


def problems_of(error: ValidationError, root: type[BaseModel] = Experiment, prefix: str = "") -> list[Problem]:
    """Every finding of `error` as a `Problem`; `prefix` is put before each key.

    A field that allows several types is reported once, with the fixes of all of them.
    """
    found: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        names = _field_path(detail["loc"], root)
        key = ".".join(names)
        what, fix = _what(detail), _fix(detail, names, root)
        if key in found and found[key].fix != fix:  # each type that the field allows has its say
            what, fix = found[key].problem, f"{found[key].fix} or {fix}"
        found[key] = Problem(prefix + key, what, fix)
    return list(found.values())


def _field_path(location: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    """The keys a user wrote: pydantic's location without the tags it adds for unions and validators."""
    names: list[str] = []
    model: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, int):
            names[-1] += f"[{part}]"
            continue
        if model is None and _is_tag(part):
            continue
        names.append(part)
        model = _model_of(model, part)
    return names


def _is_tag(part: str) -> bool:
    return part[:1].isupper() or any(sign in part for sign in "[]()-,") or part in {
        "str", "int", "float", "bool", "list", "dict", "literal", "none", "constrained-str", "[key]",
    }  # fmt: skip


def _model_of(model: type[BaseModel] | None, name: str) -> type[BaseModel] | None:
    if model is None or name not in model.model_fields:
        return None
    annotation = model.model_fields[name].annotation
    kinds = typing.get_args(annotation) or (annotation,)  # of `Section | None` the section
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _what(detail: dict[str, Any]) -> str:
    kind, given = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "missing":
        return "is missing"
    if kind in ("value_error", "assertion_error"):
        return str(detail["ctx"]["error"])
    message = detail["msg"].replace("Input should be", "should be").replace("String should", "should")
    shown = repr(given) if isinstance(given, str | int | float | bool | None) else type(given).__name__
    return f"{message[0].lower()}{message[1:]}, got {shown}"


def _fix(detail: dict[str, Any], names: list[str], root: type[BaseModel]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    key = ".".join(names)
    if kind == "extra_forbidden":
        return nearest(names[-1], valid_keys(names[:-1], root))
    if kind == "missing":
        return f"add it, for example {_EXAMPLES.get(key, key + ': ...')}"
    if kind == "literal_error":
        return f"use one of {context['expected']}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        word = kind.replace("_", " ").replace("than equal", "than or equal to")
        return f"give a number {word} {next(iter(context.values()))}"
    return _FIX_OF_TYPE.get(kind, "change it")


def valid_keys(path: Sequence[str], root: type[BaseModel] = Experiment) -> list[str]:
    """The keys that may stand below the dotted `path` of an experiment file."""
    model: type[BaseModel] | None = root
    for index, name in enumerate(path):
        model = Arm if root is Experiment and index == 1 and path[0] == "arms" else _model_of(model, name)
        if model is None:
            return []
    return list(model.model_fields)
