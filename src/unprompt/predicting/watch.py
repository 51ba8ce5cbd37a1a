"""Images that appear in a folder, each once and whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from unprompt.errors import UnpromptError
from unprompt.images import IMAGE_SUFFIXES


def new_images(
    folder: str | Path, interval: float = 1.0, recursive: bool = False
) -> Iterator[list[Path]]:
    """Wait for images and yield those that are ready, for ever; the folder is looked at in turns.

    What is there when this is called is not new. A file is ready once its size and time of change
    have stood still from one turn to the next, so that one which is being written or copied is
    waited for; one that is renamed into the folder is ready after a turn. A path is given once,
    whatever becomes of the file.

    Args:
        folder: it must be there, and stay.
        interval: seconds between two turns.
        recursive: look into sub-folders too, hidden ones excepted.

    Raises:
        UnpromptError: the folder cannot be listed, or is gone.
    """
    return _appearing(Path(folder), set(_images(Path(folder), recursive)), interval, recursive)


def _appearing(
    folder: Path, given: set[Path], interval: float, recursive: bool
) -> Iterator[list[Path]]:
    waiting: dict[Path, tuple[int, int]] = {}
    while True:
        time.sleep(interval)
        found = {
            path: state for path, state in _images(folder, recursive).items() if path not in given
        }
        if ready := sorted(path for path, state in found.items() if waiting.get(path) == state):
            given.update(ready)
            yield ready
        waiting = found


def _images(folder: Path, recursive: bool) -> dict[Path, tuple[int, int]]:
    """Size in bytes and time of change, in ns, of each image that is not empty."""
    images = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if recursive:
                            images.update(_images(path, recursive))
                    elif path.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
                        state = entry.stat()
                        if state.st_size:
                            images[path] = state.st_size, state.st_mtime_ns
                except FileNotFoundError:
                    continue  # gone since it was listed
    except OSError as error:
        raise UnpromptError(f"{folder}: cannot be watched ({error.strerror})") from error
    return images
