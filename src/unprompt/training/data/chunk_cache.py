"""Work that is done once and kept on disk: by chunks, under a name that says what went in.

A chunk is written whole or not at all, so a killed call loses at most the chunk it was at, and
two processes that do the same work at once only waste time. Nothing is ever served for another
model or another data set: their contents are part of the name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from unprompt.errors import TableError
from unprompt.files import atomic_path, cache_dir
from unprompt.pairs.table import PairsTable
from unprompt.pairs.tar_shards import split_member
from unprompt.progress import track

CHUNK = 1024
"""Rows of a chunk."""

Arrays = dict[str, np.ndarray]


def in_chunks(
    kind: str,
    key: str,
    count: int,
    make: Callable[[range], Arrays],
    description: str,
    size: int | None = None,
) -> Iterator[tuple[Path, range]]:
    """Make what is missing of a result of ``count`` rows, and yield each chunk.

    Args:
        kind: folder of the cache, one for each kind of work.
        key: what went into the work; see `unprompt.models.fingerprint`.
        count: rows of the whole.
        make: from the rows of a chunk, counted from 0, to its arrays.
        description: what the bar says.
        size: rows of a chunk; `CHUNK` by default.

    Yields:
        The chunk's folder, with one ``.npy`` file for each array, and the rows that it holds.

    Raises:
        OutputError: the cache cannot be written.
    """
    for chunk, rows in track(_chunks(kind, key, count, size), description):
        if not (chunk / _WHOLE).exists():
            _sweep(chunk)
            for name, array in make(rows).items():
                with atomic_path(chunk / f"{name}.npy") as path:
                    np.save(path, array, allow_pickle=False)
            with atomic_path(chunk / _WHOLE):
                pass
        yield chunk, rows


_WHOLE = "whole"
"""Written last: the arrays of a chunk are all there."""

_FORGOTTEN = 3600
"""Seconds after which a half-written file is of a killed call; a chunk is written in a few."""


def missing(kind: str, key: str, count: int, size: int | None = None) -> int:
    """How many of the rows of a result are not there; see `in_chunks`."""
    chunks = _chunks(kind, key, count, size)
    return sum(len(rows) for chunk, rows in chunks if not (chunk / _WHOLE).exists())


def _chunks(kind: str, key: str, count: int, size: int | None) -> list[tuple[Path, range]]:
    folder, size = cache_dir() / kind / key, size or CHUNK
    return [
        (folder / f"{start // size:06}", range(start, min(start + size, count)))
        for start in range(0, count, size)
    ]


def _sweep(chunk: Path) -> None:
    """Remove what killed calls left half-written, and not what another process writes now."""
    for path in chunk.glob(".*.tmp*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _FORGOTTEN:
                path.unlink()


def fingerprint_of_images(table: PairsTable) -> str:
    """A name for a table's images: their paths, and the size and time of change of each file.

    Paths are whole ones, since tables in two folders may call two images by one name. A file that
    is missing counts as such. Reading them all would take as long as the work does that is to be
    saved.
    """
    digest = hashlib.blake2b(f"{table.root.resolve()}\0".encode(), digest_size=16)
    states: dict[str, str] = {}
    for file in table.column("file"):
        shard = split_member(file)
        stored = shard[0] if shard else file
        if stored not in states:
            states[stored] = _state(table.root / stored)
        digest.update(f"{file}\0{states[stored]}\0".encode())
    return digest.hexdigest()


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def readable(table: str, failures: list[str]) -> np.ndarray:
    """The rows without a failure, int64; ``failures`` holds an empty string for each of these.

    Args:
        table: what errors call the table.
        failures: one string for each row.

    Raises:
        TableError: no row is left.
    """
    rows = np.flatnonzero([not failure for failure in failures])
    if not len(rows):
        raise TableError(
            f"{table}: none of the {len(failures)} images can be decoded; the first: "
            f"{failures[0] if failures else 'there is none'}"
        )
    return rows
