"""Text tags of an EXIF block, read from its TIFF directories without trusting any offset."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from unprompt.reading.containers.charset import decode, decode_guessed, decode_user_comment
from unprompt.reading.limits import Limits
from unprompt.reading.result import Field

_EXIF_IFD = 0x8769
_XMP = 0x02BC
_NAMES = {
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
    order = _ORDERS.get(block[:2])
    if order is None or len(block) < 8:
        limits.note(f"{place}: no TIFF header")
        return
    offset_form, count_form, entry_form = order
    big_endian = block[:2] == b"MM"
    pending = [offset_form.unpack_from(block, 4)[0]]
    seen_directories: set[int] = set()
    seen_tags: set[int] = set()
    while pending and len(seen_directories) < 16:
        start = pending.pop(0)
        if start in seen_directories or start + 2 > len(block):
            continue
        seen_directories.add(start)
        (count,) = count_form.unpack_from(block, start)
        for entry in range(start + 2, min(start + 2 + 12 * count, len(block) - 11), 12):
            tag, type_code, length, offset = entry_form.unpack_from(block, entry)
            if tag == _EXIF_IFD:
                pending.append(offset)
            if tag in seen_tags or type_code not in _SIZES or tag not in _NAMES:
                continue
            seen_tags.add(tag)
            at = entry + 8 if length <= 4 else offset
            value = block[at : at + length]
            if limits.allows(len(value), place, _NAMES[tag]):
                text = _decode(tag, value, big_endian)
                yield Field(place, _NAMES[tag], text, whole=len(value) == length)


def _decode(tag: int, value: bytes, big_endian: bool) -> str:
    if tag == 0x9286:
        return decode_user_comment(value, big_endian)
    if 0x9C9B <= tag <= 0x9C9F:
        return decode_guessed(value, big_endian=False, expect_utf16=True)
    return decode(value.rstrip(b"\0"))
