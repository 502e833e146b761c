"""Rows as a source gives them: columns of plain values, whatever kind of file they came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from lora_dist.errors import DataError, Problem, raise_together


@dataclass(frozen=True)
class Rows:
    """One split of a source, by column. `name` is what the source calls it."""

    name: str
    columns: Mapping[str, Any]
    """Lists, or pyarrow arrays, which stay on the disk until they are asked for. All have `len(self)` values."""
    count: int
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of columns that hold class numbers (`datasets.ClassLabel`): what each number is called, in its order."""

    def __len__(self) -> int:
        return self.count

    def column(self, name: str) -> list[Any]:
        """The values of a column as Python objects; null is None."""
        values = self.columns[name]
        return values if isinstance(values, list) else values.to_pylist()


def rows_of_objects(name: str, objects: Sequence[Mapping[str, Any]]) -> Rows:
    """Rows of dicts; a key that a row lacks is None there. Columns are in the order in which they first appear."""
    names = dict.fromkeys(key for row in objects for key in row)
    return Rows(name, {key: [row.get(key) for row in objects] for key in names}, len(objects))


def rows_of_table(name: str, table: Any) -> Rows:
    """Rows of a pyarrow table (its values are not copied)."""
    columns = {key: table.column(key) for key in table.column_names}
    return Rows(name, columns, table.num_rows, _class_names(table.schema.metadata))


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, ...]]:
    """The names of class numbers that `datasets` keeps in a table's schema, by column; anybody may have written it."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        classes = {key: told["names"] for key, told in features.items() if told.get("_type") == "ClassLabel"}
        return {key: tuple(map(str, names)) for key, names in classes.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def joined(name: str, parts: Sequence[tuple[str, Rows]]) -> Rows:
    """The rows of several files, one file after the other; each part comes with its file's name.

    Raises:
        DataError: two files have different columns.
    """
    first_file, first = parts[0]
    for file, part in parts[1:]:
        if set(part.columns) != set(first.columns):
            raise DataError(
                key="data.path",
                problem=f"the files of split '{name}' have different columns: {first_file} has "
                f"{', '.join(first.columns)}; {file} has {', '.join(part.columns)}",
                fix="give files of one kind, or name each split's files: {train: ..., test: ...}",
            )
    if len(parts) == 1:
        return Rows(name, first.columns, first.count, first.class_names)
    for file, part in parts[1:]:
        if part.class_names != first.class_names:
            raise DataError(
                key="data.path",
                problem=f"the files of split '{name}' call their class numbers by different names: {first_file} has "
                f"{_told(first.class_names)}; {file} has {_told(part.class_names)}",
                fix="write them with one datasets.ClassLabel",
            )
    columns = {key: [value for _, part in parts for value in part.column(key)] for key in first.columns}
    return Rows(name, columns, sum(part.count for _, part in parts), first.class_names)


def _told(class_names: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{column}: {', '.join(names)}" for column, names in class_names.items())[:200] or "none"


def refuse(problems: Iterable[Problem]) -> None:
    """Raise `DataError` for one problem, `Refused` for several, nothing for none."""
    found = tuple(dict.fromkeys(problems))
    if len(found) == 1:
        refuse_one(found[0])
    raise_together(found)


def refuse_one(problem: Problem) -> NoReturn:
    """Raise `problem` as a `DataError`."""
    raise DataError(key=problem.key, problem=problem.problem, fix=problem.fix)


def and_more(count: int) -> str:
    """How many rows beside the one that is named have the same problem: " (and 3 more rows)", or nothing for 0."""
    if not count:
        return ""
    return " (and 1 more row)" if count == 1 else f" (and {count} more rows)"
