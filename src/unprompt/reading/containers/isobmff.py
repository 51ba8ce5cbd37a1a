"""EXIF, XMP and C2PA in AVIF and HEIC files (ISO 14496-12, 23008-12) and JPEG XL (18181-2).

Only the box structure is read; no decoder is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from unprompt.reading.containers.brotli_box import decompress
from unprompt.reading.containers.c2pa import read_c2pa
from unprompt.reading.containers.exif import read_exif
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_WITH_TEXT = (b"meta", b"uuid", b"Exif", b"xml ", b"brob", b"jumb")
_MAX_BOXES = 1000
_MAX_ITEMS = 10_000


def read_isobmff(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the texts of an AVIF, HEIC or JPEG XL file."""
    size = file.size()
    for box_type, start, end in read_boxes(file, 0, size, limits):
        length = end - start
        if length > MAX_TEXT:
            if box_type in _WITH_TEXT:
                limits.note(f"box {box_type.decode()}: {length:,} bytes; skipped")
            continue
        if box_type == b"meta":
            yield from _read_items(file, file.at(start, length), size, limits)
        elif box_type == b"uuid" and file.at(start, 16) == _C2PA_UUID:
            # version and flags, "manifest\\0", 8 bytes of offset, then the boxes
            yield from read_c2pa(file.at(start, length)[16 + 4 + 9 + 8 :], limits)
        elif box_type == b"Exif":  # JPEG XL
            yield from read_exif(_after_offset(file.at(start, length)), limits)
        elif box_type == b"xml ":
            yield from read_xmp(file.at(start, length), limits)
        elif box_type == b"jumb":
            yield from read_c2pa(_jumbf(file.at(start, length)), limits)
        elif box_type == b"brob" and (data := decompress(file.at(start + 4, length - 4), limits)):
            inner = file.at(start, 4)
            if inner == b"Exif":
                yield from read_exif(_after_offset(data), limits)
            elif inner == b"xml ":
                yield from read_xmp(data, limits)
            elif inner == b"jumb":
                yield from read_c2pa(_jumbf(data), limits)


def _after_offset(content: bytes) -> bytes:
    """An EXIF block without its first four bytes, which count the bytes before the TIFF header."""
    return content[4 + int.from_bytes(content[:4], "big") :]


def _jumbf(content: bytes) -> bytes:
    """A manifest with the header of its box."""
    return struct.pack(">I4s", len(content) + 8, b"jumb") + content


def read_boxes(file: Window, at: int, end: int, limits: Limits) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, content start and content end of each box."""
    for _ in range(_MAX_BOXES):
        header = file.at(at, 16)
        if len(header) < 8 or at >= end:
            return
        size, box_type = struct.unpack_from(">I4s", header)
        start = at + 8
        if size == 1 and len(header) == 16:
            size, start = struct.unpack_from(">Q", header, 8)[0], at + 16
        stop = end if size == 0 else min(at + size, end)
        if stop < start:
            return
        yield box_type, start, stop
        at = stop
    limits.note(f"more than {_MAX_BOXES:,} boxes; the rest is skipped")


def _read_items(file: Window, meta: bytes, file_size: int, limits: Limits) -> Iterator[Field]:
    names: dict[int, bytes] = {}
    places: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    data_box = b""
    for box_type, content in _sub_boxes(meta[4:]):
        try:
            if box_type == b"iinf":
                names = _item_types(content)
            elif box_type == b"iloc":
                places = _item_places(content)
            elif box_type == b"idat":
                data_box = content
        except (struct.error, IndexError):
            limits.note(f"AVIF/HEIC {box_type.decode('latin-1')}: damaged")
    for item, box_type in names.items():
        method, extents = places.get(item, (0, []))
        if box_type not in (b"Exif", b"mime") or not extents or len(extents) > 1000:
            continue
        parts, left = [], MAX_TEXT
        for offset, length in extents:
            length = min(length or file_size, left)
            if method == 1:
                parts.append(data_box[offset : offset + length])
            elif offset < file_size:
                parts.append(file.at(offset, length))
            left -= len(parts[-1]) if parts else 0
        value = b"".join(parts)
        if box_type == b"Exif" and len(value) > 4:
            yield from read_exif(_after_offset(value), limits)
        elif box_type == b"mime" and value.lstrip()[:1] == b"<":
            yield from read_xmp(value, limits)


def _sub_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, box_type = struct.unpack_from(">I4s", data, at)
        stop = len(data) if size == 0 else at + size
        if stop < at + 8:
            return
        yield box_type, data[at + 8 : stop]
        at = stop


def _item_types(content: bytes) -> dict[int, bytes]:
    """Item id to type, from an ``iinf`` box."""
    wide = content[0] > 0
    types: dict[int, bytes] = {}
    for box_type, entry in _sub_boxes(content[8 if wide else 6 :]):
        if box_type != b"infe" or not entry or entry[0] < 2 or len(types) >= _MAX_ITEMS:
            continue
        if entry[0] == 2:
            item, _, name = struct.unpack_from(">HH4s", entry, 4)
        else:
            item, _, name = struct.unpack_from(">IH4s", entry, 4)
        types[item] = name
    return types


def _item_places(content: bytes) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    """Item id to construction method and (offset, length) of its parts, from an ``iloc`` box."""
    version = content[0]
    offset_size, length_size = content[4] >> 4, content[4] & 15
    base_size, index_size = content[5] >> 4, content[5] & 15 if version else 0
    at = 6

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(content):
            raise IndexError
        at += size
        return int.from_bytes(content[at - size : at], "big")

    places: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    for _ in range(min(number(4 if version == 2 else 2), _MAX_ITEMS)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)  # the file with the data: 0, this file
        base = number(base_size)
        extents = []
        for _ in range(number(2)):
            number(index_size)
            offset = base + number(offset_size)
            extents.append((offset, number(length_size)))
        places[item] = (method, extents)
    return places
