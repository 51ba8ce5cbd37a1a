"""The cores of the machine, and work shared among them whose results come in order."""

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
from functools import partial
from itertools import chain, islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 32
"""Items that a process takes at a time: of files whose metadata are read, some ten milliseconds."""

_WORTH = 512
"""Fewer items are done sooner than further processes start."""


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
    """Yield the result of ``task`` for each item in turn, a few of them being worked on at once.

    Args:
        task: what to do; it should leave Python's lock for most of its time.
        items: taken one by one, at most two for each worker ahead of the results.
        workers: threads; with one, the caller's own does the work.
        setup: called in each thread first.
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
    """Yield the result of ``task`` for each item in turn, worked on by several processes.

    For work that is Python's own, from which threads gain nothing. What a process leaves undone
    that is killed, for want of memory perhaps, this one does.

    Args:
        task: what to do; it, the items and the results must be picklable.
        items: any number; taken one by one, no more than 160 for each process, and 512 in all,
            ahead of the results.
        workers: processes; by default one a core, at most 8, and none beside this one for few
            items.
    """
    left = iter(items)
    if workers is None:
        first = list(islice(left, _WORTH))
        workers = min(8, cores()) if len(first) == _WORTH else 1
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
    """Leave Ctrl-C to the process that waits for this one, and end when that is killed."""
    gc.freeze()  # else each collection writes to what was inherited, which is then copied
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


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
