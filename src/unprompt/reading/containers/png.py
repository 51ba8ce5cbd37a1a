"""Text chunks of a PNG file, before and after the pixels (PNG 1.2, sections 11.3.4 and 11.3.5)."""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Iterator
from typing import IO

from unprompt.reading.answer import Field
from unprompt.reading.carrier import MAX_TEXT, Limits
from unprompt.reading.containers.c2pa import read_c2pa
from unprompt.reading.containers.exif import read_exif
from unprompt.reading.containers.text import decode, decode_utf8
from unprompt.reading.containers.xmp import read_xmp

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 200_000
_WANTED = frozenset((b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"caBX"))
_PLACES = {kind: f"PNG {kind.decode()}" for kind in _WANTED}
_HEADER = struct.Struct(">4xI4s")
"""Length and kind of a chunk behind four bytes of another: its check sum, or of the signature."""


def read_png(file: IO[bytes], limits: Limits) -> Iterator[Field]:
    """Yield the texts of a PNG file that stand before its pixels.

    A wrong check sum is of no consequence: what a bit error spoils is rarely the prompt. A chunk
    that the end of the file cuts is given with ``whole`` false.
    """
    for kind, data, whole in _chunks(file, limits):
        if kind == b"IDAT":
            return
        yield from _read_chunk(kind, data, whole, limits)


def read_png_end(file: IO[bytes], limits: Limits) -> Iterator[Field]:
    """Yield the texts that stand after the pixels, which are passed over unread."""
    behind = False
    for kind, data, whole in _chunks(file, limits):
        if kind == b"IDAT":
            behind = True
        elif behind:
            yield from _read_chunk(kind, data, whole, limits)


def _chunks(file: IO[bytes], limits: Limits) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield kind, content and wholeness of the chunks that hold text; of IDAT the kind alone."""
    file.seek(len(SIGNATURE) - 4)
    for _ in range(_MAX_CHUNKS):
        header = file.read(12)
        if len(header) < 12:
            return
        length, kind = _HEADER.unpack(header)
        if kind in _WANTED and length <= MAX_TEXT:
            data = file.read(length)
            yield kind, data, len(data) == length
            continue
        if kind == b"IEND":
            return
        if kind == b"IDAT":
            yield kind, b"", True
        elif kind in _WANTED:
            limits.note(f"PNG {kind.decode()}: a chunk of {length:,} bytes; skipped")
        file.seek(length, 1)
    limits.note(f"PNG: more than {_MAX_CHUNKS:,} chunks; the rest is skipped")


def _read_chunk(kind: bytes, data: bytes, whole: bool, limits: Limits) -> Iterator[Field]:
    if not whole:
        limits.note(f"PNG {kind.decode()}: the file ends inside this chunk")
    if kind == b"eXIf":
        yield from read_exif(data, limits)
        return
    if kind == b"caBX":
        yield from read_c2pa(data, limits)
        return
    key, separator, rest = data.partition(b"\0")
    if not separator:
        limits.note(f"PNG {kind.decode()}: no key; skipped")
        return
    place, name = _PLACES[kind], key.decode("latin-1")
    if kind == b"tEXt":
        text: bytes | None = rest if limits.allows(len(rest), f"{place} {name}") else None
    elif kind == b"zTXt":
        text, whole = _inflate(rest[1:], whole, f"{place} {name}", limits)
    else:
        compressed, rest = rest[:1] == b"\1", rest[2:]
        # The language tag and the translated key stand before the text.
        text = rest.split(b"\0", 2)[-1] if rest.count(b"\0", 0, 4096) >= 2 else rest.lstrip(b"\0")
        if compressed:
            text, whole = _inflate(text, whole, f"{place} {name}", limits)
        elif not limits.allows(len(text), f"{place} {name}"):
            text = None
    if text is None:
        return
    if name == "XML:com.adobe.xmp":
        yield from read_xmp(text, limits)
    elif name.startswith("Raw profile type "):
        yield from _read_raw_profile(name.removeprefix("Raw profile type "), text, limits)
    else:
        decoded = decode_utf8(text) if kind == b"iTXt" else decode(text)
        yield Field(place, name, decoded.rstrip("\0"), whole)


def _inflate(data: bytes, whole: bool, what: str, limits: Limits) -> tuple[bytes | None, bool]:
    """Decompress up to the limit; what a damaged stream gave before the damage is not whole."""
    stream, parts, room = zlib.decompressobj(), [], min(MAX_TEXT, limits.left) + 1
    try:
        parts.append(stream.decompress(data, room))
    except zlib.error as error:
        limits.note(f"{what}: damaged compressed text ({error})")
        return None, False
    text = b"".join(parts)
    if not limits.allows(len(text), what):
        return None, False
    return text, whole and stream.eof


def _read_raw_profile(kind: str, text: bytes, limits: Limits) -> Iterator[Field]:
    """ImageMagick's text form of a profile: a line break, name, length, then hexadecimal digits."""
    parts = text.split(None, 2)
    if len(parts) < 3:
        return
    try:
        block = binascii.unhexlify(b"".join(parts[2].split()))
    except binascii.Error:
        limits.note(f"PNG raw profile {kind}: damaged")
        return
    if kind in ("exif", "APP1") and not block.startswith(b"http"):
        yield from read_exif(block, limits)
    elif kind in ("xmp", "APP1"):
        yield from read_xmp(block.split(b"\0", 1)[-1] if kind == "APP1" else block, limits)
