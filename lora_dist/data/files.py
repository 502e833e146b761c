"""One local file -> rows. Every value keeps the type that the file gives it; nothing is guessed or cached."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_dist.data.rows import Rows, rows_of_objects, rows_of_table
from lora_dist.errors import DataError

TEXT_COLUMN = "text"


def read_file(path: Path, split: str) -> Rows:
    """The rows of a .jsonl, .json, .csv, .parquet or .txt file.

    A .json file is an array of objects (or JSON lines). A .csv file has its column names in its first line and
    text in every cell. A .txt file is one document, in the column `text`.

    Raises:
        DataError: the file is not there, is of another type, cannot be decoded, or is malformed (with its line).
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            key="data.path",
            problem=f"{path} is of an unknown type ('{path.suffix or 'no suffix'}')",
            fix=f"give a file that ends in {', '.join(READERS)}",
        )
    try:
        return reader(path, split)
    except FileNotFoundError:
        raise DataError(
            key="data.path", problem=f"there is no file {path}", fix="correct the path (relative to this folder)"
        ) from None
    except OSError as error:
        raise DataError(
            key="data.path",
            problem=f"{path} cannot be read ({error.strerror or error})",
            fix="make it a readable file",
        ) from error


def _decoded(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # Windows editors put a byte order mark first
    except UnicodeDecodeError as error:
        raise DataError(
            key="data.path",
            problem=f"{path} is not UTF-8 text (byte {error.start + 1})",
            fix="save it as UTF-8",
        ) from None


def _read_jsonl(path: Path, split: str) -> Rows:
    objects = []
    for number, line in enumerate(_decoded(path).split("\n"), start=1):  # splitlines() would cut at U+2028 too
        if line.strip():
            objects.append(_object(path, number, line))
    return rows_of_objects(split, objects)


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(
            key="data.path",
            problem=f"{path}, line {number} is not JSON ({what})",
            fix='correct or remove this line: each line is one object, such as {"prompt": ..., "completion": ...}',
        ) from None
    if not isinstance(value, dict):
        raise DataError(
            key="data.path",
            problem=f"{path}, line {number} holds {_json_type(value)}, not an object",
            fix='make each line one object, such as {"prompt": ..., "completion": ...}',
        )
    return value


def _read_json(path: Path, split: str) -> Rows:
    text = _decoded(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object after the other: JSON lines under the other suffix
            return _read_jsonl(path, split)
        if not text.strip():
            return rows_of_objects(split, [])
        raise DataError(
            key="data.path",
            problem=f"{path}, line {error.lineno} is not JSON ({error.msg})",
            fix="correct the file: it holds an array of objects",
        ) from None
    if not isinstance(document, list):
        raise DataError(
            key="data.path",
            problem=f"{path} holds {_json_type(document)}, not an array of objects",
            fix="make it [{...}, {...}], or a .jsonl file with one object per line",
        )
    for number, value in enumerate(document, start=1):
        if not isinstance(value, dict):
            raise DataError(
                key="data.path",
                problem=f"{path}, element {number} is {_json_type(value)}, not an object",
                fix="make every element of the array an object",
            )
    return rows_of_objects(split, document)


def _json_type(value: Any) -> str:
    names = {dict: "a single object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _read_csv(path: Path, split: str) -> Rows:
    # pyarrow and not the csv module, whose limit on the length of a cell (128 KiB) is a setting of the process.
    import pyarrow as pa
    import pyarrow.csv

    text = _decoded(path)
    header = next(csv.reader(io.StringIO(text, newline="")), [])
    if not header:
        return rows_of_objects(split, [])
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise DataError(
            key="data.path", problem=f"{path} has two columns named {', '.join(twice)}", fix="rename one of them"
        )
    data = text.encode()
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(block_size=min(len(data) + 1, 2**30), use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            key="data.path",
            problem=f"{path} is not well-formed CSV ({_first_line(error)})",
            fix="separate by commas, and put cells that hold commas, quotes or newlines in double quotes",
        ) from None
    return rows_of_table(split, table)


def _read_parquet(path: Path, split: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return rows_of_table(split, pyarrow.parquet.ParquetFile(path, memory_map=True).read())
    except pa.ArrowInvalid as error:
        raise DataError(
            key="data.path",
            problem=f"{path} is not a complete parquet file ({_first_line(error)})",
            fix="write or download it again",
        ) from None


def _read_txt(path: Path, split: str) -> Rows:
    return Rows(split, {TEXT_COLUMN: [_decoded(path)]}, 1)


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:200]


READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}
