"""Text segments of a JPEG file: EXIF, XMP with its extension, comments, IPTC captions, C2PA."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from unprompt.reading.containers.c2pa import read_c2pa
from unprompt.reading.containers.charset import decode, decode_guessed
from unprompt.reading.containers.exif import read_exif
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

SIGNATURE = b"\xff\xd8\xff"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_MAX_SEGMENTS = 20_000
_SEGMENT = struct.Struct(">BBH")
_TEXTS = frozenset((*range(0xE0, 0xF0), 0xFE))
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
_LAST = frozenset((0xD9, 0xDA))


def read_jpeg(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the texts of a JPEG file, which stand before its pixels."""
    exif: list[bytes] = []
    extension: dict[int, bytes] = {}
    c2pa: list[bytes] = []
    xmp: list[bytes] = []
    for marker, data, whole in _segments(file, limits):
        if marker == 0xE1 and data.startswith(b"Exif\0"):
            exif.append(data[6:])
        elif marker == 0xE1 and data.startswith(_XMP):
            xmp.append(data[len(_XMP) :])
        elif marker == 0xE1 and data.startswith(_EXTENDED_XMP) and len(data) >= 75:
            # 35 bytes of name, 32 of digest, 4 of full length, 4 of offset.
            extension[struct.unpack_from(">I", data, 71)[0]] = data[75:]
        elif marker == 0xEB and data[:2] == b"JP" and len(data) >= 16:
            # 8 bytes of framing; later parts repeat the box header of 8 bytes.
            c2pa.append(data[8:] if not c2pa else data[16:])
        elif marker == 0xED:
            yield from _read_photoshop(data, limits)
        elif marker == 0xFE and limits.allows(len(data), "JPEG COM"):
            text = decode_guessed(data)
            yield Field("JPEG COM", "comment", text, whole)
    if exif:
        yield from read_exif(_joined_exif(exif), limits)
    for packet in xmp:
        yield from read_xmp(packet, limits)
    if extension:
        yield from read_xmp(b"".join(extension[at] for at in sorted(extension)), limits)
    if c2pa:
        yield from read_c2pa(b"".join(c2pa), limits)


def _segments(file: Window, limits: Limits) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the segments that may hold text, up to the start of the pixels."""
    at, taken = 2, 0
    for _ in range(_MAX_SEGMENTS):
        head = file.at(at, 4)
        if len(head) < 4 or head[0] != 0xFF:
            return
        _, marker, size = _SEGMENT.unpack(head)
        if marker in _TEXTS and size >= 2:
            data = file.at(at + 4, size - 2)
            taken += len(data)
            if taken > 2 * MAX_TEXT:
                limits.note("JPEG: too many bytes of metadata; the rest is skipped")
                return
            whole = len(data) == size - 2
            if not whole:
                limits.note("JPEG: the file ends inside its metadata")
            yield marker, data, whole
            at += 2 + size
        elif marker == 0xFF:  # a fill byte; the marker follows
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker in _LAST or size < 2:
            return
        else:
            at += 2 + size


def _joined_exif(segments: list[bytes]) -> bytes:
    """The EXIF block; beyond 64 kB it continues in segments without a TIFF header."""
    block = segments[0]
    for segment in segments[1:]:
        if segment[:2] in (b"II", b"MM"):
            break
        block += segment
    return block


def _read_photoshop(data: bytes, limits: Limits) -> Iterator[Field]:
    """The IPTC caption (record 2, data set 120) and special instructions (2:40)."""
    at = data.find(b"8BIM\x04\x04")
    names = {120: "Caption", 40: "SpecialInstructions", 105: "Headline"}
    if at < 0:
        return
    at = data.find(b"\x1c", at + 6)
    while 0 <= at <= len(data) - 5 and data[at] == 0x1C:
        record, marker, length = struct.unpack_from(">BBH", data, at + 1)
        value = data[at + 5 : at + 5 + length]
        if record == 2 and marker in names and limits.allows(len(value), "IPTC"):
            yield Field("IPTC", names[marker], decode(value), len(value) == length)
        at += 5 + length
