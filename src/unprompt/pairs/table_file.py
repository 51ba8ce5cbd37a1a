"""Reading of a table's file, Parquet, JSON lines or CSV, before the schema is applied."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unprompt.errors import TableError
from unprompt.pairs.csv_file import DELIMITERS, header_of, read_csv
from unprompt.pairs.schema import SCHEMA, is_text

ROOT_KEY = b"unprompt.root"
"""Parquet metadata key under which a table names the folder of its images."""


def existing(path: str | Path) -> Path:
    """Path of the table's file; in a folder it is ``pairs.parquet``.

    Raises:
        TableError: the file does not exist.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "pairs.parquet"
    if not path.exists():
        raise TableError(f"{path}: no such pairs table")
    return path


def root_of(path: Path) -> Path:
    """The folder that image paths are relative to."""
    if is_parquet(path):
        metadata = _parquet(path).schema_arrow.metadata or {}
        if stated := metadata.get(ROOT_KEY):
            return Path(os.path.normpath(path.parent / stated.decode()))
    return path.parent


def is_json_lines(path: Path) -> bool:
    """Whether the file has an ending of JSON lines."""
    return path.suffix.lower() in (".jsonl", ".ndjson")


def is_csv(path: Path, separator: str | None = None) -> bool:
    """Whether the file has the ending of CSV or TSV, or the user states a separator."""
    if is_json_lines(path) or is_parquet(path):
        return False
    return separator is not None or path.suffix.lower() in (".csv", ".tsv")


def is_parquet(path: Path) -> bool:
    """Whether the content of a file starts like Parquet; its name does not matter."""
    if not path.is_file():  # a pipe can be read only once
        return False
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def column_names(path: Path, separator: str | None = None, text_only: bool = False) -> list[str]:
    """Names of the columns of a table; of JSON lines those of the first 100 rows.

    Args:
        path: the file.
        separator: what separates the columns of a CSV file, if it is known.
        text_only: leave out columns of Parquet that hold no text.

    Raises:
        TableError: the file does not exist or is damaged.
    """
    if is_csv(path, separator):
        return header_of(path, separator or DELIMITERS)
    if is_json_lines(path):
        rows = islice(json_rows(path), 100)
        return list(dict.fromkeys(name for _, row in rows for name in row))
    fields = _parquet(path).schema_arrow
    return [field.name for field in fields if not text_only or is_text(field.type)]


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: not a readable Parquet file ({error})") from error


def raw_batches(
    path: Path,
    columns: list[str] | None,
    batch_size: int,
    separator: str | None = None,
    typed: bool = True,
) -> Iterator[pa.Table]:
    """Yield batches of at most ``batch_size`` rows, with those of ``columns`` that exist.

    Args:
        path: the file.
        columns: names of columns, or None for all.
        batch_size: rows in a batch, at most.
        separator: as in `column_names`.
        typed: read columns of JSON lines with names of the schema as its types.

    Raises:
        TableError: the file is damaged; for JSON lines and CSV it names the row.
    """
    if is_csv(path, separator):
        yield from _csv_batches(path, columns, batch_size, separator)
        return
    if is_json_lines(path):
        yield from _json_batches(path, columns, batch_size, typed)
        return
    file = _parquet(path)
    if columns is not None:
        columns = [name for name in columns if name in file.schema_arrow.names]
    try:
        for batch in file.iter_batches(batch_size, columns=columns):
            yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{path}: damaged Parquet file ({error})") from error


def _csv_batches(
    path: Path, columns: list[str] | None, size: int, separator: str | None
) -> Iterator[pa.Table]:
    names = column_names(path, separator)
    taken = [name for name in dict.fromkeys(names) if columns is None or name in columns]
    rows = (row for _, row in read_csv(path, names, separator or DELIMITERS))
    while batch := list(islice(rows, size)):
        yield pa.table({name: pa.array([row[name] for row in batch]) for name in taken})


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row number, from 1, and object of each line of a file of JSON lines.

    Raises:
        TableError: a line is not a JSON object.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise TableError(f"{path}, row {number}: not a JSON object ({error})") from error
            if not isinstance(row, dict):
                raise TableError(f"{path}, row {number}: not a JSON object")
            yield number, row


def _json_batches(
    path: Path, columns: list[str] | None, size: int, typed: bool
) -> Iterator[pa.Table]:
    rows = (row for _, row in json_rows(path))
    start = 1
    while batch := list(islice(rows, size)):
        yield _from_rows(batch, columns, path, start, typed)
        start += len(batch)


def _from_rows(
    rows: list[dict[str, Any]], columns: list[str] | None, path: Path, start: int, typed: bool
) -> pa.Table:
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    arrays = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if not any(name in row for row in rows):
            continue
        known = typed and name in SCHEMA.names and name != "embedding"
        type_ = SCHEMA.field(name).type if known else None
        try:
            arrays[name] = pa.array(values, type_)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            if not typed:
                arrays[name] = pa.array([_as_text(value) for value in values], pa.string())
                continue
            for number, value in enumerate(values, start):
                try:
                    pa.scalar(value, type_)
                except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                    raise TableError(
                        f"{path}, row {number}: column '{name}' holds {value!r}, "
                        f"which is not of type {type_ or 'the rows before'}"
                    ) from None
            raise
    return pa.table(arrays)


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def without_null_prompts(data: pa.Table) -> pa.Table:
    """The same rows, with empty prompts instead of null."""
    prompts = data.column("prompt")
    filled = pc.fill_null(prompts.cast(pa.string()), "") if prompts.null_count else prompts
    return data.set_column(data.schema.get_field_index("prompt"), "prompt", filled)
