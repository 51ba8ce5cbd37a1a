"""What a run of `unprompt.collecting.generate` has done, kept so that a killed one can go on.

Every process appends the row of each image that is there to a journal of its own; the table, once
written, holds what the journals did.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unprompt.errors import OutputError
from unprompt.pairs.table import stream
from unprompt.pairs.tar_shards import member_names, split_member

Row = dict[str, Any]
"""The columns of a pair by name."""

TABLE = "pairs.parquet"
_JOURNAL = ".journal-{}.jsonl"


def journal_of(folder: Path, process: int) -> Path:
    """The journal of the n-th process, from 0."""
    return folder / _JOURNAL.format(process)


def note(journal: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a journal.

    Raises:
        OutputError: it cannot be written.
    """
    # Begun with a line break, a line is whole whatever a killed process left before it.
    lines = b"".join(b"\n" + json.dumps(row).encode() + b"\n" for row in rows)
    try:
        with journal.open("ab") as file:
            file.write(lines)
    except OSError as error:
        raise OutputError(f"cannot write {journal}: {error.strerror}") from error


def rows_done(folder: Path, wanted: Collection[str]) -> dict[str, Row]:
    """Rows of images that are there, by id: from the table of an earlier call and the journals."""
    rows: dict[str, Row] = {}
    for row in _noted(folder):
        if row["id"] in wanted and _is_there(folder, row["file"]):
            rows[row["id"]] = row
    return rows


def remove_journals(folder: Path) -> None:
    """Remove every process's journal, when the table holds what they do."""
    for journal in folder.glob(_JOURNAL.format("*")):
        journal.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this computer out of the block."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _noted(folder: Path) -> Iterator[Row]:
    if (folder / TABLE).exists():
        for batch in stream(folder / TABLE):
            yield from map(asdict, batch)
    for journal in sorted(folder.glob(_JOURNAL.format("*"))):
        for line in journal.read_bytes().split(b"\n")[:-1]:
            # A process that was killed may have left half a line, and its follower the rest of it.
            row = _parse(line)
            if row is not None:
                yield row


def _parse(line: bytes) -> Row | None:
    try:
        row: Row = json.loads(line)
    except ValueError:
        return None
    return row


def _is_there(folder: Path, file: str) -> bool:
    if member := split_member(file):
        return member[1] in member_names(folder / member[0])
    return (folder / file).exists()
