"""Texts of SVG files: metadata, title, description and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.parsers import expat

from unprompt.reading.containers.file_window import Window
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field

_ROOT = re.compile(rb"<(?:[\w.-]{1,40}:)?svg[\s>/]")
_NAMES = {"metadata": "metadata", "title": "title", "desc": "description"}
_MAX_DEPTH = 256
_MAX_TEXTS = 200


class _RefusedError(Exception):
    """The file declares entities, or is nested too deep."""


def is_svg(head: bytes) -> bool:
    """Whether a file starts like an SVG file."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", "replace").encode("utf-8", "replace")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"<html" in head[:2000].lower() or not start.startswith(b"<"):
        return False
    root = _ROOT.search(start)
    return root is not None and (root.start() == 0 or start.startswith((b"<?xml", b"<!")))


def read_svg(file: Window, limits: Limits) -> Iterator[Field]:
    """Yield the texts of an SVG file; shapes and drawn text are skipped."""
    size = file.size()
    if size > MAX_TEXT:
        limits.note(f"SVG: {size:,} bytes; only the first {MAX_TEXT:,} are read")
    collector = _Collector()
    data = file.at(0, MAX_TEXT)
    try:
        collector.parser.Parse(data, size <= MAX_TEXT)
    except (expat.ExpatError, _RefusedError, ValueError, LookupError) as error:
        limits.note(f"SVG: not read to its end ({error})")
    for name, text in collector.found:
        if limits.allows(len(text), "SVG", name):
            yield Field("SVG", name, text)
    start, end = data.find(b"<rdf:RDF"), data.find(b"</rdf:RDF>")
    if 0 <= start < end and b"xmlns:rdf" in data[start : start + 2000]:
        yield from read_xmp(data[start : end + len(b"</rdf:RDF>")], limits, "SVG RDF")


class _Collector:
    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self._depth = 0
        self._open: list[tuple[str, int]] = []
        self._text: list[str] = []
        self.parser = expat.ParserCreate(namespace_separator="\x1f")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.CommentHandler = self._comment
        self.parser.EntityDeclHandler = self._refuse

    def _refuse(self, *_: object) -> None:
        raise _RefusedError("it declares entities")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _RefusedError(f"more than {_MAX_DEPTH} levels")
        local = tag.rpartition("\x1f")[2]
        if local in _NAMES and not self._open:
            self._open.append((local, self._depth))
            self._text.clear()

    def _end(self, tag: str) -> None:
        if self._open and self._open[-1][1] == self._depth:
            name, _ = self._open.pop()
            self._add(_NAMES[name], "".join(self._text))
        self._depth -= 1

    def _characters(self, text: str) -> None:
        if self._open:
            self._text.append(text)

    def _comment(self, text: str) -> None:
        self._add("comment", text)

    def _add(self, name: str, text: str) -> None:
        if text.strip() and len(self.found) < _MAX_TEXTS:
            self.found.append((name, text.strip()))
