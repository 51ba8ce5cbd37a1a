"""Properties of an XMP packet; nothing is fetched and no entity is expanded."""

from __future__ import annotations

from collections.abc import Iterator
from xml.parsers import expat

from unprompt.reading.limits import Limits
from unprompt.reading.result import Field

_MAX_DEPTH = 64
_MAX_PROPERTIES = 1000
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_RESOURCE = f"{_RDF}\x1fresource"
_NOT_PROPERTIES = (_RDF, "http://www.w3.org/XML/1998/namespace")
_PREFIXES = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "Iptc4xmpCore",
    "http://ns.adobe.com/xap/1.0/mm/": "xmpMM",
}


class _DepthError(Exception):
    """The packet is nested too deep, has too many properties, or declares a document type."""


def read_xmp(packet: bytes, limits: Limits, place: str = "XMP") -> Iterator[Field]:
    """Yield every simple property of an XMP packet as ``prefix:name``, list items one by one.

    XMP writes properties as attributes or as elements; both are read. A packet with a document
    type is refused, because it could define entities.
    """
    if not limits.allows(len(packet), place):
        return
    collector = _Collector()
    try:
        collector.parser.Parse(packet.strip(b"\0 \t\r\n"), True)
    except (expat.ExpatError, _DepthError, ValueError, LookupError) as error:
        limits.note(f"{place}: not read to its end ({error})")
    for name, text in collector.found:
        yield Field(place, name, text)


class _Collector:
    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self._path: list[str] = []
        self._text: list[str] = []
        self.parser = expat.ParserCreate(namespace_separator="\x1f")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _refuse(self, *_: object) -> None:
        raise _DepthError("it declares a document type")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._path) >= _MAX_DEPTH or len(self.found) >= _MAX_PROPERTIES:
            raise _DepthError(f"more than {_MAX_DEPTH} levels or {_MAX_PROPERTIES} properties")
        self._text.clear()
        self._path.append(tag)
        for name, value in attributes.items():
            if name == _RESOURCE and value.strip():
                self.found.append((_short(self._owner() or tag), value))
            elif value.strip() and "\x1f" in name and not name.startswith(_NOT_PROPERTIES):
                self.found.append((_short(name), value))

    def _owner(self) -> str | None:
        """The property around the element: list items are rdf:li inside rdf:Alt, Bag or Seq."""
        return next((name for name in reversed(self._path) if _RDF not in name), None)

    def _end(self, tag: str) -> None:
        text = "".join(self._text)
        self._text.clear()
        self._path.pop()
        owner = tag if _RDF not in tag else self._owner()
        if text.strip() and owner:
            self.found.append((_short(owner), text))


def _short(name: str) -> str:
    space, _, local = name.rpartition("\x1f")
    prefix = _PREFIXES.get(space) or space.rstrip("/#").rpartition("/")[2]
    if "tc260.org" in space:  # China's label; the end of the address varies
        prefix = "TC260"
    return f"{prefix}:{local}" if prefix else local
