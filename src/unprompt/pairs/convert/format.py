"""What a format is, and the parts that several formats share."""

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
"""Source, and a folder for images that the source holds inside itself, to batches of pairs."""

Write = Callable[[Iterator[PairsTable], Path, list[str]], None]
"""Batches and target; the rows that could not be written are added to the list, each told."""


@dataclass(frozen=True)
class Format:
    """A way to keep pairs on disk.

    Attributes:
        name: as ``--to`` takes it.
        holds: columns of a pairs table that survive a round trip; ``*`` is every further column.
        matches: whether a path on disk is of this format.
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


def plain_path(file: str) -> str:
    """``shard.tar/key.ext`` as ``shard/key.ext``, so that it can be a path of its own."""
    shard = split_member(file)
    return f"{shard[0].removesuffix('.tar')}/{shard[1]}" if shard else file


ALL = frozenset(SCHEMA.names) | {"*"}
