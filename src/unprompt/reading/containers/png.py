"""Text chunks of a PNG file, before and after the pixels (PNG 1.2, sections 11.3.4 and 11.3.5)."""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Iterable, Iterator

from unprompt.reading.containers.c2pa import read_c2pa
from unprompt.reading.containers.charset import decode, decode_utf8
from unprompt.reading.containers.exif import read_exif
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 200_000
_WANTED = frozenset((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"caBX"))
_PLACES = {chunk_type: f"PNG {chunk_type.decode()}" for chunk_type in _WANTED}
_HEADER = struct.Struct(">I4s")


def read_png(file: Window, limits: Limits, behind: bool = False) -> Iterator[Field]:
    """Yield the texts of a PNG file before its pixels, or with ``behind`` those after them.

    Check sums are ignored, since a bit error rarely hits the prompt. A chunk that the end of the
    file cuts off gives a field with ``whole`` False.
    """
    at, passed = len(SIGNATURE), False
    for _ in range(_MAX_CHUNKS):
        header = file.at(at, 8)
        if len(header) < 8:
            return
        length, chunk_type = _HEADER.unpack(header)
        if chunk_type in _WANTED:
            if passed is behind:
                if length <= MAX_TEXT:
                    data = file.at(at + 8, length)
                    yield from _fields(chunk_type, data, len(data) == length, limits)
                else:
                    limits.note(f"PNG {chunk_type.decode()}: a chunk of {length:,} bytes; skipped")
        elif chunk_type == b"IDAT":
            if not behind:
                return
            passed = True
        elif chunk_type == b"IEND":
            return
        at += length + 12
    limits.note(f"PNG: more than {_MAX_CHUNKS:,} chunks; the rest is skipped")


def _fields(chunk_type: bytes, data: bytes, whole: bool, limits: Limits) -> Iterable[Field]:
    """The texts of one chunk."""
    if not whole:
        limits.note(f"PNG {chunk_type.decode()}: the file ends inside this chunk")
    if chunk_type == b"eXIf":
        return read_exif(data, limits)
    if chunk_type == b"caBX":
        return read_c2pa(data, limits)
    key, separator, rest = data.partition(b"\0")
    if not separator:
        limits.note(f"PNG {chunk_type.decode()}: no key; skipped")
        return ()
    place, name = _PLACES[chunk_type], key.decode("latin-1")
    compressed = chunk_type == b"zTXt"
    if compressed:
        rest = rest[1:]
    elif chunk_type == b"iTXt":
        compressed, rest = rest[:1] == b"\1", rest[2:]
        # The language tag and the translated key precede the text.
        rest = rest.split(b"\0", 2)[-1] if rest.count(b"\0", 0, 4096) >= 2 else rest.lstrip(b"\0")
    if compressed:
        text, whole = _inflate(rest, whole, f"{place} {name}", limits)
    else:
        text = rest if limits.allows(len(rest), place, name) else None
    if text is None:
        return ()
    if name == "XML:com.adobe.xmp":
        return read_xmp(text, limits)
    if name.startswith("Raw profile type "):
        return _read_raw_profile(name.removeprefix("Raw profile type "), text, limits)
    decoded = decode_utf8(text) if chunk_type == b"iTXt" else decode(text)
    return (Field(place, name, decoded.rstrip("\0"), whole),)


def _inflate(data: bytes, whole: bool, what: str, limits: Limits) -> tuple[bytes | None, bool]:
    """Decompress up to the limit; None if the stream is damaged."""
    stream, parts, most = zlib.decompressobj(), [], min(MAX_TEXT, limits.left) + 1
    try:
        parts.append(stream.decompress(data, most))
    except zlib.error as error:
        limits.note(f"{what}: damaged compressed text ({error})")
        return None, False
    text = b"".join(parts)
    if not limits.allows(len(text), what):
        return None, False
    return text, whole and stream.eof


def _read_raw_profile(chunk_type: str, text: bytes, limits: Limits) -> Iterator[Field]:
    """Read ImageMagick's text form of a profile: name, length, then hexadecimal digits."""
    parts = text.split(None, 2)
    if len(parts) < 3:
        return
    try:
        block = binascii.unhexlify(b"".join(parts[2].split()))
    except binascii.Error:
        limits.note(f"PNG raw profile {chunk_type}: damaged")
        return
    if chunk_type in ("exif", "APP1") and not block.startswith(b"http"):
        yield from read_exif(block, limits)
    elif chunk_type in ("xmp", "APP1"):
        yield from read_xmp(block.split(b"\0", 1)[-1] if chunk_type == "APP1" else block, limits)
