"""Text tags of an EXIF block, read from its TIFF directories without trusting any offset."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from unprompt.reading.containers.charset import decode, decode_guessed, decode_user_comment
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

_EXIF_IFD = 0x8769
_XMP = 0x02BC
_NAMES = {
    _XMP: "XMP",
    0x010D: "DocumentName",
    0x010E: "ImageDescription",
    0x010F: "Make",
    0x0110: "Model",
    0x0131: "Software",
    0x013B: "Artist",
    0x8298: "Copyright",
    0x9286: "UserComment",
    0x927C: "MakerNote",
    0x9C9B: "XPTitle",
    0x9C9C: "XPComment",
    0x9C9D: "XPAuthor",
    0x9C9E: "XPKeywords",
    0x9C9F: "XPSubject",
    0xA430: "CameraOwnerName",
}
_ORDERS = {
    mark: tuple(struct.Struct(order + form) for form in ("I", "H", "HHII"))
    for mark, order in ((b"II", "<"), (b"MM", ">"))
}
"""Structs of an offset, a count and a directory entry, for both byte orders."""
_SIZES = {1: 1, 2: 1, 6: 1, 7: 1, 129: 1}
"""Bytes per value of the types that hold text: BYTE, ASCII, SBYTE, UNDEFINED, UTF-8 (Exif 3)."""


def read_exif(block: bytes, limits: Limits, place: str = "EXIF") -> Iterator[Field]:
    r"""Yield the text tags of an EXIF block, each once, the main directory first.

    Args:
        block: a TIFF structure, with or without the ``Exif\0\0`` that JPEG puts before it.
        limits: of the file.
        place: the place to name in the fields.
    """
    block = block.removeprefix(b"Exif\0\0")

    def at(start: int, length: int) -> bytes:
        return block[start : start + length]

    return _read_directories(at, len(block), limits, place, pages=False)


def read_tiff(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the text tags of a TIFF file, each once, the first page first."""
    return _read_directories(file.at, file.size(), limits, "TIFF", pages=True)


def _read_directories(
    at: Callable[[int, int], bytes], size: int, limits: Limits, place: str, pages: bool
) -> Iterator[Field]:
    header = at(0, 8)
    order = _ORDERS.get(header[:2])
    if order is None or len(header) < 8:
        limits.note(f"{place}: no TIFF header")
        return
    offset_form, count_form, entry_form = order
    big_endian = header[:2] == b"MM"
    pending = [offset_form.unpack_from(header, 4)[0]]
    seen_directories: set[int] = set()
    seen_tags: set[int] = set()
    while pending and len(seen_directories) < 16:
        start = pending.pop(0)
        count_bytes = at(start, 2)
        if start in seen_directories or len(count_bytes) < 2:
            continue
        seen_directories.add(start)
        (count,) = count_form.unpack(count_bytes)
        entries = at(start + 2, 12 * count + 4)
        if pages and len(entries) == 12 * count + 4:
            pending.append(offset_form.unpack_from(entries, 12 * count)[0])
        for entry in range(0, min(12 * count, len(entries) - 11), 12):
            tag, type_code, length, offset = entry_form.unpack_from(entries, entry)
            if tag == _EXIF_IFD:
                pending.insert(0, offset)
            if tag in seen_tags or type_code not in _SIZES or tag not in _NAMES:
                continue
            seen_tags.add(tag)
            inline = length <= 4
            if not inline and length > MAX_TEXT:
                limits.allows(length, place, _NAMES[tag])
                continue
            value = entries[entry + 8 : entry + 8 + length] if inline else at(offset, length)
            if tag == _XMP:
                yield from read_xmp(value, limits)
            elif limits.allows(len(value), place, _NAMES[tag]):
                text = _decode(tag, value, big_endian)
                yield Field(place, _NAMES[tag], text, whole=len(value) == length)


def _decode(tag: int, value: bytes, big_endian: bool) -> str:
    if tag == 0x9286:
        return decode_user_comment(value, big_endian)
    if 0x9C9B <= tag <= 0x9C9F:
        return decode_guessed(value, big_endian=False, expect_utf16=True)
    return decode(value.rstrip(b"\0"))
