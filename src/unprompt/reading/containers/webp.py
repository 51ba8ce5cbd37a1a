"""Text chunks of a WebP file (RIFF): EXIF, XMP and C2PA."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from unprompt.reading.carrier import MAX_TEXT, Limits
from unprompt.reading.containers.c2pa import read_c2pa
from unprompt.reading.containers.exif import read_exif
from unprompt.reading.containers.window import Window
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.result import Field

_MAX_CHUNKS = 100_000
_HEADER = struct.Struct("<4sI")
_READERS = {b"EXIF": read_exif, b"XMP ": read_xmp, b"C2PA": read_c2pa}


def read_webp(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the texts of a WebP file; frames are passed over unread."""
    at = 12
    for _ in range(_MAX_CHUNKS):
        header = file.at(at, 8)
        if len(header) < 8:
            return
        kind, length = _HEADER.unpack(header)
        at += 8
        if kind in _READERS and length <= MAX_TEXT:
            data = file.at(at, length)
            if len(data) < length:
                limits.note(f"WebP {kind.decode()}: the file ends inside this chunk")
            yield from _READERS[kind](data, limits)
        at += length + (length & 1)
    limits.note(f"WebP: more than {_MAX_CHUNKS:,} chunks; the rest is skipped")
