"""The bytes of a file by the place where they stand."""

from __future__ import annotations

from typing import IO

_HEAD = 1 << 14
"""Bytes read at once: enough for most files' texts, and no more of their pixels than need be."""


class Window:
    """Access to parts of a file, of which the first are read once and kept.

    This takes the place of a buffered file, whose opening costs as much as the rest of a reading
    of a small PNG's chunks.

    Args:
        file: binary and seekable; read from its start. It is left at any place.
    """

    __slots__ = ("file", "head")

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.head = file.read(_HEAD)

    def at(self, place: int, length: int) -> bytes:
        """``length`` bytes from ``place`` on; fewer where the file ends before."""
        end = place + length
        if end <= len(self.head):
            return self.head[place:end]
        self.file.seek(place)
        return self.file.read(length)

    def size(self) -> int:
        """Bytes of the whole file."""
        return self.file.seek(0, 2)
