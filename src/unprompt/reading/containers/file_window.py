"""`Window`: parts of a file by position, with the first bytes kept."""

from __future__ import annotations

import io
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
        self.head = read_exactly(file, _HEAD)

    def at(self, place: int, length: int) -> bytes:
        """``length`` bytes from ``place`` on; fewer if the file ends earlier."""
        end = place + length
        if end <= len(self.head):
            return self.head[place:end]
        self.file.seek(place)
        return read_exactly(self.file, length)

    def size(self) -> int:
        """Size of the file in bytes."""
        return self.file.seek(0, 2)


def read_exactly(file: IO[bytes], length: int) -> bytes:
    """``length`` bytes, fewer only at the end of the file; raw streams may return less at once.

    Raises:
        TypeError: the file is opened in text mode.
    """
    data = file.read(length)
    if not isinstance(data, bytes) and data is not None:
        raise TypeError("it is opened in text mode; open it with mode 'rb'")
    if data is None or 0 < len(data) < length:
        parts = [data or b""]
        left = length - len(parts[0])
        while left and (data := file.read(left)):
            parts.append(data)
            left -= len(data)
        return b"".join(parts)
    return data


class WholeReads(io.RawIOBase):
    """A seekable stream whose every read returns all bytes asked for, as decoders expect."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def read(self, length: int | None = -1) -> bytes:
        """``length`` bytes, or all; fewer only at the end."""
        if length is not None and length >= 0:
            return read_exactly(self._file, length)
        return b"".join(iter(lambda: self._file.read(1 << 20), b""))

    def seek(self, place: int, whence: int = 0) -> int:
        """Move to ``place``; returns the new position."""
        place_now = self._file.seek(place, whence)
        return self._file.tell() if place_now is None else place_now

    def tell(self) -> int:
        """The position."""
        return self._file.tell()
