"""The texts of one image file, as the families look at them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from unprompt.reading.result import Field

MAX_TEXT = 8 << 20
"""Most bytes of one text, compressed or not; ComfyUI workflows stay below 2 MB."""

_AROUND = "\ufeff \t\r\n\0"
_DECODER = json.JSONDecoder()
_OPENING = frozenset("{[")
_QUOTED = frozenset(('"{', '"['))

MAX_TOTAL = 16 << 20
"""Most bytes of all texts of a file together."""


class Limits:
    """How much text a file may still give, and what went wrong on the way."""

    __slots__ = ("left", "problems")

    def __init__(self) -> None:
        self.left = MAX_TOTAL
        self.problems: list[str] = []

    def allows(self, size: int, *what: str) -> bool:
        """Whether ``size`` more bytes may be taken; if not, the refusal is noted."""
        if size > MAX_TEXT or size > self.left:
            self.note(f"{' '.join(what)}: more than {MAX_TEXT >> 20} MiB of text; skipped")
            return False
        self.left -= size
        return True

    def note(self, problem: str) -> None:
        """Keep one line about a damaged or refused part; the first twenty are enough."""
        if len(self.problems) < 20:
            self.problems.append(problem)


class Carrier:
    """The fields of a file with look-up by name and JSON parsed once.

    Args:
        fields: every text, in file order.
        kind: the container: ``PNG``, ``JPEG``, ``WebP``...

    Attributes:
        surrogates: whether JSON that was parsed may state lone surrogates, as only its escapes can.
    """

    __slots__ = ("_json", "_maybe", "fields", "kind", "surrogates")

    def __init__(self, fields: Iterable[Field], kind: str = ""):
        self.fields = tuple(fields)
        self.kind = kind
        self.surrogates = False
        self._json: dict[int, Any] = {}
        self._maybe = [field for field in self.fields if _may_be_json(field.text)]

    @property
    def json_names(self) -> Iterable[str]:
        """The names of the fields that look like a JSON object or array."""
        return [field.name for field in self._maybe]

    def named(self, *names: str) -> list[Field]:
        """Every field with one of ``names``, in the order of the names."""
        named = [field for field in self.fields if field.name in names]
        return sorted(named, key=lambda field: names.index(field.name)) if len(named) > 1 else named

    def find(self, *names: str) -> Field | None:
        """The first whole, non-blank field with one of ``names``, tried in that order."""
        for field in self.named(*names):
            if field.whole and field.text.strip():
                return field
        return None

    def text(self, *names: str) -> str | None:
        """Text of the first field with one of ``names``, or None."""
        field = self.find(*names)
        return field.text if field else None

    def json(self, field: Field | None) -> Any:
        """What ``field`` holds as JSON, None where it holds none."""
        if field is None or not field.whole:
            return None
        key = id(field)  # the fields live as long as this does
        if key not in self._json:
            self._json[key] = self.parse(field.text)
        return self._json[key]

    def parse(self, text: str) -> Any:
        """What a part of a field's text holds as JSON, None where it holds none."""
        value = parse_json(text)
        if value is not None and "\\" in text and ("\\ud" in text or "\\uD" in text):
            self.surrogates = True
        return value

    def objects(self, mark: str = "", *names: str) -> Iterator[tuple[Field, dict[str, Any]]]:
        """Yield every field that holds a JSON object, and that object.

        Args:
            mark: only those whose text holds this; so most need not be parsed.
            names: only those of these names.
        """
        for field in self._maybe:
            if (not names or field.name in names) and mark in field.text:
                value = self.json(field)
                if isinstance(value, dict) and value:
                    yield field, value

    def mapping(self, *names: str) -> tuple[Field, dict[str, Any]] | None:
        """The first field with one of ``names`` that holds a JSON object, and that object."""
        for field in self.named(*names):
            if isinstance(value := self.json(field), dict) and value:
                return field, value
        return None


def _may_be_json(text: str) -> bool:
    if text[:1].isalnum():  # as nearly every other text
        return False
    start = text[:100].lstrip(_AROUND)
    return start[:1] in _OPENING or start[:2] in _QUOTED


def parse_json(text: str) -> Any:
    """Parse a JSON object or array; None where it is damaged, too deep or something else.

    Of JSON that was written as a JSON text once more, the inner one counts. ``NaN`` is accepted,
    since ComfyUI writes it. Depth is bounded by the interpreter's recursion limit, and everything
    that walks the result bounds its own.
    """
    if not _may_be_json(text):
        return None
    try:
        text = text.strip(_AROUND)
        value, end = _DECODER.raw_decode(text)
        if end < len(text):
            return None
        if isinstance(value, str) and value[:1] in _OPENING:
            value = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None
