"""C2PA manifests: the program that made the image, and whether it declares AI.

A manifest is a tree of JUMBF boxes (ISO 19566-5) with claims and assertions in CBOR (RFC 8949) or
JSON. Signatures are not verified.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from unprompt.reading.image_texts import parse_json
from unprompt.reading.limits import Limits
from unprompt.reading.result import Field

_MAX_DEPTH = 32
_MAX_ITEMS = 20_000
_WANTED = ("claim_generator", "digitalSourceType", "softwareAgent", "prompt")


def read_c2pa(data: bytes, limits: Limits, place: str = "C2PA") -> Iterator[Field]:
    """Yield the claim generator, software agents and digital source types of every manifest."""
    if not limits.allows(len(data), place):
        return
    seen: set[tuple[str, str]] = set()
    for content, box_type in _contents(data, 0, len(data), 0):
        try:
            value = (
                parse_json(content.decode("utf-8"))
                if box_type == b"json"
                else _Cbor(content).item()
            )
        except (ValueError, IndexError, struct.error, UnicodeDecodeError):
            limits.note(f"{place}: a damaged assertion; skipped")
            continue
        for name, text in _statements(value, 0):
            if (name, text) not in seen and len(seen) < 100:
                seen.add((name, text))
                yield Field(place, name, text)


def _contents(data: bytes, at: int, end: int, depth: int) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= end and depth < _MAX_DEPTH:
        size, box_type = struct.unpack_from(">I4s", data, at)
        header = 8
        if size == 1 and at + 16 <= end:
            size, header = struct.unpack_from(">Q", data, at + 8)[0], 16
        stop = end if size == 0 else min(at + size, end)
        if size and size < header:
            return
        if box_type == b"jumb":
            yield from _contents(data, at + header, stop, depth + 1)
        elif box_type in (b"cbor", b"json"):
            yield data[at + header : stop], box_type
        at = stop


def _statements(value: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Yield the wanted keys of nested objects; name and version of a program become one text."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for item in value:
            yield from _statements(item, depth + 1)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        name = "claim_generator" if key == "claim_generator_info" else key
        if name in _WANTED:
            if isinstance(item, list) and item:
                item = item[0]
            if isinstance(item, dict):
                words = (item.get("name"), item.get("version"))
                item = " ".join(word for word in words if isinstance(word, str))
            if isinstance(item, str) and item.strip():
                yield str(name), item[:1000]
        else:
            yield from _statements(item, depth + 1)


class _Cbor:
    """A CBOR reader with limits on depth and on the number of items."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0
        self._items = 0

    def item(self, depth: int = 0) -> Any:
        """The next item; `_BREAK` for a break code."""
        self._items += 1
        if depth > _MAX_DEPTH or self._items > _MAX_ITEMS:
            raise ValueError("too deep or too long")
        first = self._data[self._at]
        self._at += 1
        major, extra = first >> 5, first & 31
        if major == 7:
            return self._simple(extra)
        length = self._argument(extra)
        if major == 0:
            return length
        if major == 1:
            return None if length is None else -1 - length
        if major in (2, 3):
            return self._string(major, length, depth)
        if major == 4:
            return [value for value in self._series(length, depth)]  # noqa: C416
        if major == 5:
            flat = list(self._series(None if length is None else 2 * length, depth))
            keys = [key if isinstance(key, str) else repr(key)[:100] for key in flat[0::2]]
            return dict(zip(keys, flat[1::2], strict=False))
        return self.item(depth + 1)  # a tag only annotates the next item

    def _argument(self, extra: int) -> int | None:
        if extra < 24:
            return extra
        if extra == 31:
            return None
        if extra > 27:
            raise ValueError("reserved length")
        size = 1 << (extra - 24)
        value = int.from_bytes(self._data[self._at : self._at + size], "big")
        self._at += size
        return value

    def _string(self, major: int, length: int | None, depth: int) -> Any:
        if length is None:
            parts = [part for part in self._series(None, depth) if isinstance(part, bytes | str)]
            return b"" if major == 2 else "".join(p for p in parts if isinstance(p, str))
        if length > len(self._data) - self._at:
            raise ValueError("text beyond the end")
        value = self._data[self._at : self._at + length]
        self._at += length
        return value if major == 2 else value.decode("utf-8", "replace")

    def _series(self, length: int | None, depth: int) -> Iterator[Any]:
        while length is None or length > 0:
            value = self.item(depth + 1)
            if value is _BREAK:
                return
            yield value
            length = None if length is None else length - 1

    def _simple(self, extra: int) -> Any:
        if extra == 31:
            return _BREAK
        if extra in (20, 21):
            return extra == 21
        sizes = {24: 1, 25: 2, 26: 4, 27: 8}
        self._at += sizes.get(extra, 0)
        return None


_BREAK = object()
