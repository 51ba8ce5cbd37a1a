"""CSV and TSV files with a header, read row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from unprompt.errors import TableError

DELIMITERS = ",\t;"
"""Separators that are tried where none is stated."""

_MAX_HEADER = 1 << 16
"""Characters of the first line that are read to find the column names."""


def read_csv(
    path: Path, columns: Iterable[str], delimiters: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Row number (the header is row 1) and values by column of a CSV file with a header.

    Args:
        path: the file.
        columns: the columns that the header must have.
        delimiters: possible delimiters; the first that gives a header with these columns is used.

    Raises:
        TableError: the file does not exist, is not CSV in UTF-8, or lacks one of the columns.
    """
    with _table_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
        line = file.readline()
        delimiter = _delimiter(line, columns, delimiters) or delimiters[-1]
        reader = csv.DictReader(chain([line], file), delimiter=delimiter, strict=True)
        names = reader.fieldnames or []
        if missing := [name for name in columns if name not in names]:
            raise TableError(
                f"{path}: column '{missing[0]}' is missing; it holds {', '.join(names) or 'none'}"
            )
        for number, row in enumerate(reader, 2):
            if None in row or None in row.values():
                raise TableError(f"{path}, row {number}: not {len(names)} values")
            yield number, row


def header_of(path: Path, delimiters: str = ",") -> list[str]:
    """Column names of a CSV file, split at the delimiter that gives the most of them.

    Raises:
        TableError: the file does not exist, or is not CSV in UTF-8.
    """
    with _table_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
        line = file.readline(_MAX_HEADER)
        return max((_split(line, delimiter) for delimiter in delimiters), key=len)


def has_columns(path: Path, columns: Iterable[str], delimiters: str = ",") -> bool:
    """Whether ``path`` is a CSV file whose header has these columns, with one of the delimiters."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _delimiter(file.readline(_MAX_HEADER), columns, delimiters) is not None
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


@contextmanager
def _table_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not UTF-8; convert the file first") from error
    except csv.Error as error:
        raise TableError(f"{path}: not CSV ({error})") from error


def _delimiter(header: str, columns: Iterable[str], delimiters: str) -> str | None:
    for delimiter in delimiters:
        if {*columns} <= {*_split(header, delimiter)}:
            return delimiter
    return None


def _split(header: str, delimiter: str) -> list[str]:
    return next(csv.reader([header], delimiter=delimiter), [])
