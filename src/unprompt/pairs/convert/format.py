"""What a format is, and the parts that several formats share."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from unprompt.errors import TableError
from unprompt.pairs.schema import SCHEMA, to_arrow
from unprompt.pairs.shards import split_member
from unprompt.pairs.table import PairsTable

BATCH_SIZE = 1024
_MAX_HEADER = 1 << 16
"""Characters of a first line that are looked at for a header."""

Read = Callable[[Path, Path], Iterator[PairsTable]]
"""Source, and a folder for images that the source holds inside itself, to batches of pairs."""

Write = Callable[[Iterator[PairsTable], Path, list[str]], None]
"""Batches and target; the rows that could not be written are added to the list, each told."""


@dataclass(frozen=True)
class Format:
    """A way to keep pairs on disk.

    Attributes:
        name: as ``--to`` takes it.
        holds: columns of a pairs table that survive a round trip; ``*`` is every further column.
        looks_like: whether a path on disk is of this format.
        read: see `Read`.
        write: see `Write`.
    """

    name: str
    holds: frozenset[str]
    looks_like: Callable[[Path], bool]
    read: Read
    write: Write


def batches_of(
    rows: Iterable[dict[str, Any]], root: Path, name: str, first_row: int = 1
) -> Iterator[PairsTable]:
    """Rows as dictionaries to batches of pairs; keys beyond the schema become further columns."""
    remaining = iter(rows)
    names: list[str] | None = None
    while batch := list(islice(remaining, BATCH_SIZE)):
        if names is None:
            names = list(dict.fromkeys(key for row in batch for key in row))
        columns = {key: [row.get(key) for row in batch] for key in names}
        try:
            data = pa.table(to_arrow(columns))
        except (pa.ArrowException, TableError) as error:
            raise TableError(
                f"{name}, rows {first_row} to {first_row + len(batch) - 1}: {error}"
            ) from error
        yield PairsTable(data, root, name, first_row)
        first_row += len(batch)


def rows_of(table: PairsTable, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows of a batch as dictionaries of the given columns."""
    names = [name for name in columns if name in table.data.column_names]
    for batch in table.data.select(names).to_batches(BATCH_SIZE):
        yield from batch.to_pylist()


def read_csv(
    path: Path, columns: list[str], delimiters: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Row number (the header is 1) and values of a CSV file with a header.

    Args:
        path: the file.
        columns: what the header must hold.
        delimiters: the first of these counts with which it does.

    Raises:
        TableError: not there, not UTF-8, no CSV, or without one of the columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = _delimiter(header, columns, delimiters) or delimiters[-1]
            reader = csv.DictReader(chain([header], file), delimiter=delimiter, strict=True)
            held = reader.fieldnames or []
            if missing := [name for name in columns if name not in held]:
                holds = ", ".join(held) or "nothing"
                raise TableError(f"{path}: column '{missing[0]}' is missing; it holds {holds}")
            for number, row in enumerate(reader, 2):
                if None in row or None in row.values():
                    raise TableError(f"{path}, row {number}: not {len(held)} values")
                yield number, row
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8; convert the file first") from error
    except csv.Error as error:
        raise TableError(f"{path}: no CSV ({error})") from error


def has_columns(path: Path, columns: list[str], delimiters: str = ",") -> bool:
    """Whether there is a CSV file whose header holds these columns, with one of the delimiters."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _delimiter(file.readline(_MAX_HEADER), columns, delimiters) is not None
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _delimiter(header: str, columns: list[str], delimiters: str) -> str | None:
    for delimiter in delimiters:
        if {*columns} <= {*next(csv.reader([header], delimiter=delimiter), [])}:
            return delimiter
    return None


def plain_path(file: str) -> str:
    """``shard.tar/key.ext`` as ``shard/key.ext``, so that it can be a path of its own."""
    shard = split_member(file)
    return f"{shard[0].removesuffix('.tar')}/{shard[1]}" if shard else file


ALL = frozenset(SCHEMA.names) | {"*"}
