"""A cache on disk of results for many rows, in chunks, under a name made of all inputs.

A chunk is written whole or not at all, so a killed call loses at most one chunk, and two processes
with the same work only waste time. The name contains the contents of model and images, so a result
is never used for another model or other images.
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
    cache: str,
    key: str,
    count: int,
    make: Callable[[range], Arrays],
    description: str,
    size: int | None = None,
) -> Iterator[tuple[Path, range]]:
    """Make the missing chunks of a result of ``count`` rows, and yield each chunk.

    Args:
        cache: folder of the cache: ``features`` or ``images``.
        key: name made of all inputs; see `unprompt.models.fingerprint`.
        count: rows of the result.
        make: from the rows of a chunk, counted from 0, to its arrays.
        description: text of the progress bar.
        size: rows of a chunk; `CHUNK` by default.

    Yields:
        The chunk's folder, with one ``.npy`` file for each array, and the rows that it holds.

    Raises:
        OutputError: the cache cannot be written.
    """
    for chunk, rows in track(_chunks(cache, key, count, size), description):
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

_ABANDONED = 3600
"""Age in seconds from which a half-written file belongs to a killed call; writing takes a few."""


def missing(cache: str, key: str, count: int, size: int | None = None) -> int:
    """Number of rows of a result that are not cached; see `in_chunks`."""
    chunks = _chunks(cache, key, count, size)
    return sum(len(rows) for chunk, rows in chunks if not (chunk / _WHOLE).exists())


def _chunks(cache: str, key: str, count: int, size: int | None) -> list[tuple[Path, range]]:
    folder, size = cache_dir() / cache / key, size or CHUNK
    return [
        (folder / f"{start // size:06}", range(start, min(start + size, count)))
        for start in range(0, count, size)
    ]


def _sweep(chunk: Path) -> None:
    """Remove half-written files of killed calls, but none that another process writes now."""
    for path in chunk.glob(".*.tmp*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def fingerprint_of_images(table: PairsTable) -> str:
    """A name for a table's images: their paths, and the size and time of change of each file.

    Paths are absolute, since tables in two folders may have images of one name. A missing file
    counts as missing. To read the files would take as long as the work that the cache saves.
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
    """The rows without a failure, int64.

    Args:
        table: name of the table, for errors.
        failures: one string for each row, empty without a failure.

    Raises:
        TableError: every row has a failure.
    """
    rows = np.flatnonzero([not failure for failure in failures])
    if not len(rows):
        raise TableError(
            f"{table}: none of the {len(failures)} images can be decoded; the first: "
            f"{failures[0] if failures else 'there is none'}"
        )
    return rows
