"""Tags of MP4 and MOV files: iTunes items, QuickTime keys and user data, XMP."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from unprompt.reading.containers.charset import decode
from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.isobmff import read_boxes
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

_NESTED = (b"moov", b"udta", b"trak", b"mdia")
_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_NAMES = {
    b"\xa9cmt": "comment",
    b"\xa9des": "description",
    b"\xa9nam": "title",
    b"\xa9too": "Software",
    b"\xa9swr": "Software",
    b"\xa9inf": "comment",
    b"\xa9lyr": "lyrics",
    b"desc": "description",
    b"ldes": "description",
}
_ASSET_NAMES = {b"titl": "title", b"dscp": "description"}
_MAX_DEPTH = 8
_MAX_TAGS = 2000


def read_mp4(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the text tags of an MP4 or MOV file, wherever they stand in it."""
    for count, field in enumerate(_walk(file, 0, file.size(), limits, 0)):
        if count >= _MAX_TAGS:
            limits.note(f"MP4: more than {_MAX_TAGS} tags; the rest is skipped")
            return
        yield field


def _walk(file: Window, start: int, end: int, limits: Limits, depth: int) -> Iterator[Field]:
    if depth > _MAX_DEPTH:
        return
    for box_type, at, stop in read_boxes(file, start, end, limits):
        if box_type in _NESTED:
            yield from _walk(file, at, stop, limits, depth + 1)
        elif box_type == b"meta":
            yield from _read_meta(file, at, stop, limits)
        elif box_type in (b"uuid", b"XMP_"):
            skipped = 16 if box_type == b"uuid" else 0
            if not skipped or file.at(at, 16) == _XMP_UUID:
                packet = _content(file, at + skipped, stop, "MP4 XMP", limits)
                if packet is not None:
                    yield from read_xmp(packet, limits)
        elif box_type[:1] == b"\xa9" or box_type in _NAMES or box_type == b"AIGC":
            # QuickTime user data: a length of two bytes and a language before each text.
            data = _content(file, at, stop, _name(box_type), limits)
            if data is not None and len(data) >= 4:
                length = struct.unpack_from(">H", data)[0]
                whole = length + 4 <= len(data)
                plain = data[:4].isalnum() or box_type == b"AIGC"
                text = data if plain else data[4 : 4 + length]
                whole = whole or plain
                yield Field("MP4", _name(box_type), decode(text.strip(b"\0")), whole)
        elif box_type in _ASSET_NAMES:  # 3GP: version, flags and a language before each text
            data = _content(file, at + 6, stop, _ASSET_NAMES[box_type], limits)
            if data:
                yield Field("MP4", _ASSET_NAMES[box_type], decode(data.strip(b"\0")))


def _read_meta(file: Window, start: int, end: int, limits: Limits) -> Iterator[Field]:
    """A box of metadata: items by type, or by their number in the list of keys."""
    if file.at(start + 4, 4) not in (b"hdlr", b"keys", b"ilst"):
        start += 4  # version and flags, which QuickTime leaves out
    keys: list[str] = []
    for box_type, at, stop in read_boxes(file, start, end, limits):
        if box_type == b"keys":
            keys = _keys(_content(file, at, stop, "keys", limits) or b"")
        elif box_type == b"ilst":
            for item, first, last in read_boxes(file, at, stop, limits):
                number = int.from_bytes(item, "big")
                name = keys[number - 1] if 0 < number <= len(keys) else _name(item)
                yield from _read_item(file, name, first, last, limits)


def _read_item(file: Window, name: str, start: int, end: int, limits: Limits) -> Iterator[Field]:
    for box_type, at, stop in read_boxes(file, start, end, limits):
        if box_type == b"name":  # of a free form item, whose type is ----
            stated = _content(file, at + 4, stop, "name", limits) or b""
            name = plain_name(stated.decode("utf-8", "replace"))
        elif box_type == b"data" and file.at(at, 4)[1:] in (b"\0\0\0", b"\0\0\1", b"\0\0\2"):
            data = _content(file, at + 8, stop, name, limits)
            if data is not None:
                utf16 = file.at(at, 4)[3:] == b"\2"
                text = data.decode("utf-16-be", "replace") if utf16 else decode(data)
                yield Field("MP4", name, text.strip("\0"))


def _keys(content: bytes) -> list[str]:
    keys: list[str] = []
    at = 8
    while at + 8 <= len(content) and len(keys) < _MAX_TAGS:
        size = struct.unpack_from(">I", content, at)[0]
        if size < 8:
            break
        keys.append(plain_name(content[at + 8 : at + size].decode("utf-8", "replace")))
        at += size
    return keys


def plain_name(name: str) -> str:
    """The name of a tag without Apple's prefix, and in lower case if it is in capitals."""
    if name.isupper() and name != "AIGC":
        name = name.lower()
    return name.removeprefix("com.apple.quicktime.")


def _name(box_type: bytes) -> str:
    return _NAMES.get(box_type) or box_type.decode("latin-1")


def _content(file: Window, start: int, end: int, name: str, limits: Limits) -> bytes | None:
    if end - start > MAX_TEXT:
        limits.note(f"MP4 {name}: {end - start:,} bytes; skipped")
        return None
    return file.at(start, max(0, end - start)) if limits.allows(end - start, "MP4", name) else None
