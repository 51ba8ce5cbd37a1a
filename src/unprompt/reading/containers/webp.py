"""Text chunks of a WebP file (RIFF): EXIF, XMP and C2PA."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from unprompt.reading.containers.c2pa import read_c2pa
from unprompt.reading.containers.exif import read_exif
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

_MAX_CHUNKS = 100_000
_HEADER = struct.Struct("<4sI")
_READERS = {b"EXIF": read_exif, b"XMP ": read_xmp, b"C2PA": read_c2pa}


def read_webp(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the texts of a WebP file; frames are skipped."""
    at = 12
    for _ in range(_MAX_CHUNKS):
        header = file.at(at, 8)
        if len(header) < 8:
            return
        chunk_type, length = _HEADER.unpack(header)
        at += 8
        if chunk_type in _READERS and length > MAX_TEXT:
            limits.note(f"WebP {chunk_type.decode()}: a chunk of {length:,} bytes; skipped")
        elif chunk_type in _READERS:
            data = file.at(at, length)
            if len(data) < length:
                limits.note(f"WebP {chunk_type.decode()}: the file ends inside this chunk")
            yield from _READERS[chunk_type](data, limits)
        at += length + (length & 1)
    limits.note(f"WebP: more than {_MAX_CHUNKS:,} chunks; the rest is skipped")
