"""`Window`: parts of a file by position, with the first bytes kept."""

from __future__ import annotations

from typing import IO

_HEAD = 1 << 14
"""Bytes read first: enough for the texts of most files, with few of their pixels."""


class Window:
    """Access to parts of a file by position; the first bytes are read once and kept.

    It replaces a buffered file, because opening one takes as long as reading all chunks of a small
    PNG.

    Args:
        file: binary and seekable, at its start. Its position afterwards is undefined.
    """

    __slots__ = ("file", "head")

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.head = file.read(_HEAD)

    def at(self, place: int, length: int) -> bytes:
        """``length`` bytes from ``place`` on; fewer if the file ends earlier."""
        end = place + length
        if end <= len(self.head):
            return self.head[place:end]
        self.file.seek(place)
        return self.file.read(length)

    def size(self) -> int:
        """Size of the file in bytes."""
        return self.file.seek(0, 2)
