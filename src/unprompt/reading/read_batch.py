"""Read many files with several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from unprompt.errors import UnreadableImageError
from unprompt.parallel import by_processes
from unprompt.reading.read_image import read
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
        finish: called with the path, the reading (None if the file states nothing) and the reason
            why the file could not be read (None if it could). It runs in the process that read
            the file, so it and its results must be picklable.
        captions: as in `read`.
        workers: number of processes, as in `unprompt.parallel.by_processes`.
    """
    return by_processes(partial(_read, finish=finish, captions=captions), paths, workers)


def _read(path: Path, finish: Finish[Result], captions: bool) -> Result:
    reading, problem = None, None
    try:
        reading = read(path, captions=captions)
    except UnreadableImageError as error:
        problem = str(error)
    return finish(path, reading, problem)
