"""Rows as a source gives them: columns of plain values, whatever kind of file they came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lora_dist.errors import DataError, Problem, raise_together


@dataclass(frozen=True)
class Rows:
    """One split of a source, by column. `name` is what the source calls it."""

    name: str
    columns: Mapping[str, Any]
    """Lists, or pyarrow arrays, which stay on the disk until they are asked for. All have `len(self)` values."""
    count: int

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
    return Rows(name, {key: table.column(key) for key in table.column_names}, table.num_rows)


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
        return Rows(name, first.columns, first.count)
    columns = {key: [value for _, part in parts for value in part.column(key)] for key in first.columns}
    return Rows(name, columns, sum(part.count for _, part in parts))


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
