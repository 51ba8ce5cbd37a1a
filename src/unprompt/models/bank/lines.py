"""The lines of a text file as a sequence, without the file in memory."""

from __future__ import annotations

import codecs
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

_CHUNK = 1 << 24


class Lines(Sequence[str]):
    """The lines of a memory-mapped UTF-8 file.

    Only the position of each line's end is in memory: 8 bytes for each line.

    Args:
        path: the file; each line ends with a line feed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, or its last line has no end.
    """

    def __init__(self, path: str | Path):
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        decoder = codecs.getincrementaldecoder("utf-8")()
        ends = [np.array([-1])]
        for start in range(0, size, _CHUNK):
            chunk = self._bytes[start : start + _CHUNK]
            decoder.decode(chunk)
            ends.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n")) + start)
        self._ends = np.concatenate(ends)
        if self._ends[-1] != size - 1:
            raise ValueError(f"{Path(path).name}: the last line is cut off")

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        return self._bytes[self._ends[row] + 1 : self._ends[row + 1]].decode("utf-8")
