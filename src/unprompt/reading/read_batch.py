"""Read many files with several processes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from unprompt.errors import UnreadableImageError
from unprompt.parallel import by_processes
from unprompt.reading.read_image import MAX_STREAM, read
from unprompt.reading.result import Reading

Result = TypeVar("Result")
Finish = Callable[[Path, Reading | None, str | None], Result]


def read_many(
    paths: Iterable[Path],
    finish: Finish[Result],
    captions: bool = False,
    workers: int | None = None,
) -> Iterator[Result]:
    """Read many files and yield the result of ``finish`` for each, in the order of ``paths``.

    Args:
        paths: the files. They are taken one by one, so memory does not grow with their number.
            The path ``-`` means standard input.
        finish: called with the path, the reading (None if the file states nothing) and the reason
            why the file could not be read (None if it could). It runs in the process that read
            the file, so it and its results must be picklable.
        captions: as in `read`.
        workers: number of processes, as in `unprompt.parallel.by_processes`.
    """
    items = ((path, _standard_input() if str(path) == "-" else None) for path in paths)
    return by_processes(partial(_read, finish=finish, captions=captions), items, workers)


def _standard_input() -> bytes:
    """The bytes of standard input, which only this process has; beyond the limit, cut."""
    return sys.stdin.buffer.read(MAX_STREAM)


def _read(item: tuple[Path, bytes | None], finish: Finish[Result], captions: bool) -> Result:
    path, data = item
    reading, problem = None, None
    try:
        reading = read(path if data is None else data, captions=captions)
    except UnreadableImageError as error:
        problem = str(error)
    except Exception as error:  # of one file, which must not end the run over all others
        problem = f"{path}: cannot be read ({type(error).__name__}: {error})"
    return finish(path, reading, problem)
