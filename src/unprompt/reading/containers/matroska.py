"""Tags of WebM and Matroska files (RFC 8794 and RFC 9559)."""

from __future__ import annotations

from collections.abc import Iterator

from unprompt.reading.containers.charset import decode_utf8
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.mp4 import plain_name
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

SIGNATURE = b"\x1a\x45\xdf\xa3"
_SEGMENT, _CLUSTER, _INFO, _TAGS = 0x18538067, 0x1F43B675, 0x1549A966, 0x1254C367
_TAG, _SIMPLE_TAG, _TAG_NAME, _TAG_STRING = 0x7373, 0x67C8, 0x45A3, 0x4487
_TEXTS = {0x7BA9: "title", 0x5741: "Software"}
_NESTED = frozenset((_SEGMENT, _INFO, _TAGS, _TAG))
_MAX_ELEMENTS = 200_000
_MAX_DEPTH = 8


def read_matroska(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the tags of a WebM or Matroska file; clusters of pixels are skipped."""
    yield from _Walker(file, limits).fields(0, file.size(), 0)


class _Walker:
    def __init__(self, file: Window, limits: Limits):
        self._file = file
        self._limits = limits
        self._left = _MAX_ELEMENTS

    def fields(self, start: int, end: int, depth: int) -> Iterator[Field]:
        for element, at, stop in self._elements(start, end):
            if element in _NESTED and depth < _MAX_DEPTH:
                yield from self.fields(at, stop, depth + 1)
            elif element == _SIMPLE_TAG:
                yield from self._tag(at, stop, depth)
            elif element in _TEXTS:
                yield from self._text(_TEXTS[element], at, stop)

    def _elements(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield id, content start and content end of each element.

        A cluster of unknown size, as in live streams, counts as empty: its blocks follow as
        elements of their own.
        """
        while start < end:
            self._left -= 1
            if self._left < 0:
                self._limits.note(
                    f"WebM: more than {_MAX_ELEMENTS:,} elements; the rest is skipped"
                )
                return
            header = self._file.at(start, 12)
            length = _length(header)
            if not 0 < length <= 4 or len(header) <= length:
                return
            element = int.from_bytes(header[:length], "big")
            size_length = _length(header[length:])
            field = header[length : length + size_length]
            if not size_length or len(field) < size_length:
                return
            size = int.from_bytes(field, "big") & ((1 << 7 * size_length) - 1)
            at = start + length + size_length
            if size == (1 << 7 * size_length) - 1:
                size = 0 if element == _CLUSTER else end - at
            start = min(at + size, end)
            yield element, at, start

    def _tag(self, start: int, end: int, depth: int) -> Iterator[Field]:
        name = "tag"
        for element, at, stop in self._elements(start, end):
            if element == _TAG_NAME and stop - at < 200:
                name = plain_name(decode_utf8(self._file.at(at, stop - at)).strip("\0"))
            elif element == _TAG_STRING:
                yield from self._text(name, at, stop)
            elif element == _SIMPLE_TAG and depth < _MAX_DEPTH:
                yield from self._tag(at, stop, depth + 1)

    def _text(self, name: str, at: int, stop: int) -> Iterator[Field]:
        if stop - at > MAX_TEXT:
            self._limits.note(f"WebM {name}: {stop - at:,} bytes; skipped")
        elif self._limits.allows(stop - at, "WebM", name):
            data = self._file.at(at, stop - at)
            whole = len(data) == stop - at
            yield Field("WebM", name, decode_utf8(data).rstrip("\0"), whole)


def _length(data: bytes) -> int:
    """Bytes of a number of variable length, by the zeros before its first one bit."""
    return 9 - data[0].bit_length() if data and data[0] else 0
