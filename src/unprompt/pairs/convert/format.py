"""The description of a format, and functions that several formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from unprompt.errors import TableError
from unprompt.pairs.schema import SCHEMA, to_arrow
from unprompt.pairs.table import PairsTable
from unprompt.pairs.tar_shards import split_member

BATCH_SIZE = 1024

Read = Callable[[Path, Path], Iterator[PairsTable]]
"""Takes a source and a folder for images inside the source; yields batches of pairs."""

Write = Callable[[Iterator[PairsTable], Path, list[str]], None]
"""Takes batches, target and a list; adds a line to the list for each row that cannot be written."""


@dataclass(frozen=True)
class Format:
    """A format of pairs on disk.

    Attributes:
        name: the name for ``--to`` and ``--from``.
        holds: columns of a pairs table that it can store; ``*`` is every column beyond the schema.
        matches: whether a path on disk has this format.
        read: see `Read`.
        write: see `Write`.
    """

    name: str
    holds: frozenset[str]
    matches: Callable[[Path], bool]
    read: Read
    write: Write


def batches_of(
    rows: Iterable[dict[str, Any]], root: Path, name: str, first_row: int = 1
) -> Iterator[PairsTable]:
    """Batches of pairs from rows as dictionaries; keys beyond the schema become columns too."""
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


def rows_with_images(
    table: PairsTable, columns: Iterable[str], failed: list[str]
) -> Iterator[tuple[int, dict[str, Any], bytes]]:
    """Number from 0, columns and image of each row; rows with unreadable images fail."""
    for number, row in enumerate(rows_of(table, columns)):
        try:
            yield number, row, table.read_bytes(number)
        except TableError as error:
            failed.append(str(error))


def plain_path(file: str) -> str:
    """``shard.tar/key.ext`` as ``shard/key.ext``, a path outside the shard."""
    shard = split_member(file)
    return f"{shard[0].removesuffix('.tar')}/{shard[1]}" if shard else file


ALL = frozenset(SCHEMA.names) | {"*"}
