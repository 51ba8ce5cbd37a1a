"""Texts of GIF files (GIF89a): comments and XMP."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from unprompt.reading.containers.charset import decode_guessed
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

SIGNATURES = (b"GIF87a", b"GIF89a")
_BLOCK = 1 << 16
_MAX_BYTES = 1 << 28
"""Most bytes of a file that are walked through."""
_XMP = b"XMP DataXMP"


def read_gif(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the comments and the XMP packet of a GIF file, before and after its frames."""
    if len(file.head) < 13:
        raise Image.UnidentifiedImageError
    reader = _Reader(file)
    flags = reader.byte(10)
    at = 13 + _table(flags)
    while at < _MAX_BYTES:
        introducer = reader.byte(at)
        if introducer == 0x2C:  # a frame
            at = reader.skip(at + 11 + _table(reader.byte(at + 9)))
        elif introducer == 0x21:
            label = reader.byte(at + 1)
            if label == 0xFE:
                data, at = reader.gather(at + 2, limits)
                if data and limits.allows(len(data), "GIF comment"):
                    yield Field("GIF", "comment", decode_guessed(data))
            elif label == 0xFF and reader.at(at + 3, 11) == _XMP:
                # The packet is not cut into blocks; a tail of 258 bytes ends it for old readers.
                start = at + 14
                at = reader.skip(start)
                yield from read_xmp(reader.long(start, min(at - start, MAX_TEXT))[:-258], limits)
            else:
                at = reader.skip(at + 2)
        else:
            return
    limits.note(f"GIF: more than {_MAX_BYTES >> 20} MiB; the rest is skipped")


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


class _Reader:
    """Single bytes of a file, read in larger blocks."""

    def __init__(self, file: Window):
        self._file = file
        self._start, self._block = 0, file.head

    def at(self, place: int, length: int) -> bytes:
        first = place - self._start
        if first < 0 or first + length > len(self._block):
            self._start, self._block, first = place, self._file.at(place, _BLOCK), 0
        return self._block[first : first + length]

    def long(self, place: int, length: int) -> bytes:
        return self._file.at(place, length)

    def byte(self, place: int) -> int:
        return (self.at(place, 1) or b"\0")[0]

    def skip(self, at: int) -> int:
        """The place behind a series of blocks, each with its length before it."""
        while length := self.byte(at):
            at += 1 + length
        return at + 1

    def gather(self, at: int, limits: Limits) -> tuple[bytes, int]:
        """The joined content of a series of blocks, and the place behind it."""
        parts, size = [], 0
        while length := self.byte(at):
            size += length
            if size <= MAX_TEXT:
                parts.append(self.at(at + 1, length))
            at += 1 + length
        if size > MAX_TEXT:
            limits.note(f"GIF comment: {size:,} bytes; skipped")
            return b"", at + 1
        return b"".join(parts), at + 1
