"""Many files at once, on every core: reading is Python's own work, so that threads gain nothing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from unprompt.errors import UnreadableImageError
from unprompt.reading.answer import Reading
from unprompt.reading.source import read

Result = TypeVar("Result")
Finish = Callable[[Path, Reading | None, str | None], Result]
Work = Callable[[list[Path]], list[Result]]

_CHUNK = 32
"""Files that a process takes at a time: some ten milliseconds of work."""

_WORTH = 512
"""Fewer files are read sooner than further processes start."""


def read_many(
    paths: Sequence[Path],
    finish: Finish[Result],
    captions: bool = False,
    workers: int | None = None,
) -> Iterator[Result]:
    """Read many files and yield what ``finish`` makes of each, in their order.

    Args:
        paths: the files; no more than 160 for each process are under way at any time.
        finish: called with the path, the reading (None where there is none) and the reason why
            the file could not be read (None where it could). It runs in the process that read
            the file, so it and its results must be picklable.
        captions: as `read`.
        workers: processes; by default one a core, at most 8, and none beside this one for few
            files.
    """
    work = partial(_read_chunk, finish=finish, captions=captions)
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if len(paths) >= _WORTH else 1
    left = iter(paths)
    chunks = iter(lambda: list(islice(left, _CHUNK)), [])
    if workers < 2:
        for chunk in chunks:
            yield from work(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        pending: deque[tuple[list[Path], Future[list[Result]]]] = deque()
        try:
            for chunk in chunks:
                pending.append((chunk, _submitted(pool, work, chunk)))
                if len(pending) > 4 * workers:
                    yield from _results(*pending.popleft(), work)
            while pending:
                yield from _results(*pending.popleft(), work)
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(
    pool: ProcessPoolExecutor, work: Work[Result], chunk: list[Path]
) -> Future[list[Result]]:
    try:
        return pool.submit(work, chunk)
    except BrokenProcessPool as error:
        future: Future[list[Result]] = Future()
        future.set_exception(error)
        return future


def _results(chunk: list[Path], future: Future[list[Result]], work: Work[Result]) -> list[Result]:
    """The results of a chunk; read here where the processes are gone, killed for want of memory."""
    try:
        return future.result()
    except BrokenProcessPool:
        return work(chunk)


def _read_chunk(paths: list[Path], finish: Finish[Result], captions: bool) -> list[Result]:
    results = []
    for path in paths:
        reading, problem = None, None
        try:
            reading = read(path, captions=captions)
        except UnreadableImageError as error:
            problem = str(error)
        results.append(finish(path, reading, problem))
    return results
