"""The cores of the machine, and work shared among them whose results come in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


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
