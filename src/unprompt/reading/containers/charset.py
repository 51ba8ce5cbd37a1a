"""Decode bytes to text: rules for all encodings found in metadata."""

from __future__ import annotations

import re
from contextlib import suppress

_CHARSETS = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "unicode", b"JIS\0\0\0\0\0": "jis"}
_CHARSETS |= {b"UTF-8\0\0\0": "utf-8", b"UTF8\0\0\0\0": "utf-8"}  # not in the standard


_WRITTEN_CHARSET = re.compile(r"charset=(?:\"\w*\"|'\w*'|\w+) ?", re.IGNORECASE)
"""exiv2 writes the character code in front of the text."""


def decode(data: bytes) -> str:
    """Decode as UTF-8 (with or without BOM), as UTF-16 after a BOM, else as Latin-1."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        with suppress(UnicodeDecodeError):
            return data.decode("utf-16")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def decode_utf8(data: bytes) -> str:
    """Decode as UTF-8, as iTXt and XMP require; invalid bytes become U+FFFD."""
    return data.decode("utf-8", "replace").removeprefix("\ufeff")


def decode_user_comment(data: bytes, big_endian: bool) -> str:
    """Decode an EXIF UserComment (Exif 2.3, table 9) and the deviations of generators.

    The character code of eight bytes is only a hint: generators write UTF-8 under ``ASCII`` and
    ``UNICODE``, UTF-16 in either byte order, and sometimes no code at all.

    Args:
        data: the raw value.
        big_endian: byte order of the TIFF header, used only if the text shows none.
    """
    charset = _CHARSETS.get(data[:8].upper())
    if charset or data[:8] == bytes(8):
        data = data[8:]
    if charset == "jis":
        return _decode_jis(data)
    text = decode_guessed(data, big_endian, charset == "unicode")
    return _WRITTEN_CHARSET.sub("", text, count=1) if text[:8].lower() == "charset=" else text


def decode_guessed(data: bytes, big_endian: bool = True, expect_utf16: bool = False) -> str:
    """Decode bytes of unknown encoding: by a BOM, by NUL bytes, or by validity.

    ASCII characters, which every generator writes, have a NUL in each UTF-16 unit: before the
    character in big-endian order, after it in little-endian order. UTF-8 has no NUL.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data[: len(data) & ~1].decode("utf-16", "replace").rstrip("\0")
    text = data.rstrip(b"\0")
    nuls = text.count(0)
    if nuls == 0 or (not expect_utf16 and nuls * 8 < len(text)):
        with suppress(UnicodeDecodeError):
            return text.decode().removeprefix("\ufeff")
        if not expect_utf16:
            return text.decode("latin-1")
    before, after = text[0::2].count(0), text[1::2].count(0)
    if before != after:
        big_endian = before > after
    encoding = "utf-16-be" if big_endian else "utf-16-le"
    return data[: len(data) & ~1].decode(encoding, "replace").strip("\0\ufeff")


def _decode_jis(data: bytes) -> str:
    """Decode as ISO-2022-JP if there are escapes, else as UTF-8, Shift JIS or EUC-JP.

    EUC-JP is also valid Shift JIS, but gives half-width katakana there.
    """
    data = data.rstrip(b"\0")
    for encoding in ("iso2022_jp_2" if b"\x1b" in data else "utf-8", "shift_jis", "euc_jp"):
        with suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            if encoding != "shift_jis" or not any("\uff61" <= char <= "\uff9f" for char in text):
                return text
    return data.decode("latin-1")
