"""Progress bars and notes of long steps, on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from unprompt.terminal import guarded_redirection, terminal_console, visible

Item = TypeVar("Item")

_shown: ContextVar[bool] = ContextVar("progress bars are shown", default=False)
_noted: ContextVar[set[str] | None] = ContextVar("notes that were written", default=None)


@contextmanager
def progress_bars(show: bool = True) -> Iterator[None]:
    """Show or hide notes and the progress bars of all long steps inside the ``with`` block.

    The command line shows them. Python code shows none unless it uses this function:

    >>> import unprompt
    >>> with unprompt.progress_bars():  # doctest: +SKIP
    ...     unprompt.harvest("folder", "pairs.parquet")
    """
    shown, noted = _shown.set(show), _noted.set(set())
    try:
        yield
    finally:
        _shown.reset(shown)
        _noted.reset(noted)


def note(line: str) -> None:
    """Write a line to standard error inside `progress_bars`, each line once.

    Of the processes of torchrun, only the first writes it.
    """
    noted = _noted.get()
    if not _shown.get() or noted is None or line in noted or os.environ.get("RANK", "0") != "0":
        return
    noted.add(line)
    sys.stderr.write(f"unprompt: {line}\n")


def track(
    items: Iterable[Item], description: str, total: int | Callable[[], int] | None = None
) -> Iterator[Item]:
    """Yield ``items`` while a bar on standard error shows count, rate and time left.

    The bar appears inside `progress_bars` and only if standard error is a terminal, so logs and
    pipes stay clean. Under torchrun, only the first process draws it.

    Args:
        items: the items to yield.
        description: name of the step beside the bar.
        total: number of items, by default ``len(items)`` if they have a length. A function that
            counts the items is called only if the bar is drawn.
    """
    if not _shown.get() or not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield from items
        return
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
        """Items per second over the last few seconds."""

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
    bar = Progress(*columns, console=terminal_console(sys.stderr), transient=True)
    with bar as progress, guarded_redirection():
        yield from progress.track(items, total=total, description=visible(description))
