"""Watch a folder for new images, and yield each of them when it is complete."""

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
    """Yield new images of a folder as they become ready, forever.

    The folder is listed again and again. Images that are in it at the call are not new. A file is
    ready when its size and modification time are the same in two listings, so that a file that is
    being written is not taken too early. Each path is yielded once, even if the file changes later.

    Args:
        folder: an existing folder.
        interval: seconds between two listings.
        recursive: search sub-folders too, except hidden ones.

    Raises:
        UnpromptError: the folder cannot be listed, or was deleted.
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
    """Size in bytes and modification time in ns of each image that is not empty."""
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
                    continue  # deleted since it was listed
    except OSError as error:
        raise UnpromptError(f"{folder}: cannot be watched ({error.strerror})") from error
    return images
