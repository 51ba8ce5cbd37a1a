"""One progress bar for every long step: on standard error, and only where a person looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")


def track(
    items: Iterable[Item],
    description: str,
    total: int | Callable[[], int] | None = None,
    show: bool = True,
) -> Iterator[Item]:
    """Yield ``items`` while a bar on standard error shows count, rate and time left.

    Nothing is drawn when ``show`` is false or standard error is not a terminal, so logs and pipes
    stay clean. ``total`` defaults to the length of ``items`` where it has one; a function that
    counts them is called only where the bar is drawn.
    """
    if not show or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second of late."""

        def render(self, task: Task) -> Text:
            mean = task.completed / task.elapsed if task.elapsed else 0.0
            speed = task.finished_speed or task.speed or mean
            return Text(f"{speed:,.1f}/s", style="progress.data.speed")

    if total is None and isinstance(items, Sized):
        total = len(items)
    elif callable(total):
        total = total()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)
