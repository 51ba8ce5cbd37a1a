"""Text chunks of a WebP file (RIFF): EXIF, XMP and C2PA."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

from unprompt.reading.answer import Field
from unprompt.reading.carrier import MAX_TEXT, Limits
from unprompt.reading.containers.c2pa import read_c2pa
from unprompt.reading.containers.exif import read_exif
from unprompt.reading.containers.xmp import read_xmp

_MAX_CHUNKS = 100_000


def read_webp(file: IO[bytes], limits: Limits) -> Iterator[Field]:
    """Yield the texts of a WebP file; frames are passed over unread."""
    readers = {b"EXIF": read_exif, b"XMP ": read_xmp, b"C2PA": read_c2pa}
    file.seek(12)
    for _ in range(_MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return
        kind, length = struct.unpack("<4sI", header)
        if kind not in readers or length > MAX_TEXT:
            file.seek(length + (length & 1), 1)
            continue
        data = file.read(length)
        file.seek(length & 1, 1)
        if len(data) < length:
            limits.note(f"WebP {kind.decode()}: the file ends inside this chunk")
        yield from readers[kind](data, limits)
    limits.note(f"WebP: more than {_MAX_CHUNKS:,} chunks; the rest is skipped")
