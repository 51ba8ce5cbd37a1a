"""Work on several threads or processes with results in order, and the number of cores."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from itertools import chain, islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 32
"""Items that a process takes at a time. To read the metadata of 32 files takes about 10 ms."""

_FEW = 512
"""With fewer items, one process is faster: it finishes before other processes have started."""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    task: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    setup: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yield the results of ``task`` in the order of the items, computed by several threads.

    Args:
        task: the work; it should release Python's lock most of the time.
        items: read lazily, at most two per worker ahead of the results.
        workers: number of threads; 1 works in the caller's thread.
        setup: called first in each thread.
    """
    if workers == 1:
        yield from map(task, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(workers, initializer=setup) as pool:
        held = deque(pool.submit(task, item) for item in islice(remaining, 2 * workers))
        while held:
            yield held.popleft().result()
            held.extend(pool.submit(task, item) for item in islice(remaining, 1))


def by_processes(
    task: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Yield the results of ``task`` in the order of the items, computed by several processes.

    Use it for work in pure Python, which threads do not speed up. If a worker is killed, for
    example because memory is short, the calling process does its work.

    Args:
        task: the work; task, items and results must be picklable.
        items: any number; read lazily, at most 160 per process and 512 more ahead of the results.
        workers: number of processes; by default one per core, at most 8. Fewer than 512 items are
            done by the calling process.
    """
    left = iter(items)
    if workers is None:
        first = list(islice(left, _FEW))
        workers = min(8, cores()) if len(first) == _FEW else 1
        left = chain(first, left)
    if workers < 2:
        yield from map(task, left)
        return
    work = partial(_each, task)
    chunks = iter(lambda: list(islice(left, _CHUNK)), [])
    with ProcessPoolExecutor(workers, initializer=_prepare) as pool:
        pending: deque[tuple[list[Item], Future[list[Result]]]] = deque()
        try:
            for chunk in chunks:
                pending.append((chunk, _submitted(pool, work, chunk)))
                if len(pending) > 4 * workers:
                    yield from _results(*pending.popleft(), work)
            while pending:
                yield from _results(*pending.popleft(), work)
        finally:
            pool.shutdown(cancel_futures=True)


def _each(task: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    return [task(item) for item in chunk]


def _prepare() -> None:
    """Ignore Ctrl-C, which the parent handles, and end with the parent."""
    gc.freeze()  # garbage collection would write to memory shared with the parent, and copy it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@cache
def end_with_parent() -> None:
    """End this process as soon as its parent process ends or is killed."""
    if (parent := multiprocessing.parent_process()) is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def _submitted(
    pool: ProcessPoolExecutor, work: Callable[[list[Item]], list[Result]], chunk: list[Item]
) -> Future[list[Result]]:
    try:
        return pool.submit(work, chunk)
    except BrokenProcessPool as error:
        future: Future[list[Result]] = Future()
        future.set_exception(error)
        return future


def _results(
    chunk: list[Item], future: Future[list[Result]], work: Callable[[list[Item]], list[Result]]
) -> list[Result]:
    try:
        return future.result()
    except BrokenProcessPool:
        return work(chunk)
