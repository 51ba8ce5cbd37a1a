"""`ImageTexts`: the texts of one image file, searched by name or by their JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from unprompt.reading.result import Field

_AROUND = "\ufeff \t\r\n\0"
_DECODER = json.JSONDecoder()
_OPENING = frozenset("{[")
_QUOTED = frozenset(('"{', '"['))


class ImageTexts:
    """The text fields of a file, with look-up by name; JSON is parsed only once.

    Args:
        fields: every text, in the order of the file.
        container: the file format: ``PNG``, ``JPEG``, ``WebP``...

    Attributes:
        json_fields: the fields that look like a JSON object or array.
        surrogates: True if parsed JSON may contain lone surrogates (through escapes).
    """

    __slots__ = ("_json", "container", "fields", "json_fields", "surrogates")

    def __init__(self, fields: Iterable[Field], container: str = ""):
        self.fields = tuple(fields)
        self.container = container
        self.surrogates = False
        self._json: dict[int, Any] = {}
        self.json_fields = [field for field in self.fields if _may_be_json(field.text)]

    def named(self, *names: str) -> list[Field]:
        """Every field with one of ``names``, in the order of the names."""
        named = [field for field in self.fields if field.name in names]
        return sorted(named, key=lambda field: names.index(field.name)) if len(named) > 1 else named

    def find(self, *names: str) -> Field | None:
        """The first complete, non-blank field with one of ``names``, tried in that order."""
        for field in self.named(*names):
            if field.whole and field.text.strip():
                return field
        return None

    def text(self, *names: str) -> str | None:
        """The text of the first field with one of ``names``, or None."""
        field = self.find(*names)
        return field.text if field else None

    def json(self, field: Field | None) -> Any:
        """The JSON object or array in ``field``, or None."""
        if field is None or not field.whole:
            return None
        key = id(field)  # ids stay unique: this object keeps the fields alive
        if key not in self._json:
            self._json[key] = self.parse(field.text)
        return self._json[key]

    def parse(self, text: str) -> Any:
        """The JSON object or array in a part of a field's text, or None."""
        value = parse_json(text)
        if value is not None and "\\" in text and ("\\ud" in text or "\\uD" in text):
            self.surrogates = True
        return value

    def objects(self, mark: str = "", *names: str) -> Iterator[tuple[Field, dict[str, Any]]]:
        """Yield every field that holds a JSON object, and that object.

        Args:
            mark: skip fields whose text does not contain this, without parsing them.
            names: use only fields with one of these names; by default all.
        """
        for field in self.json_fields:
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
    if text[:1].isalnum():  # the quick answer for nearly every other text
        return False
    start = text[:100].lstrip(_AROUND)
    return start[:1] in _OPENING or start[:2] in _QUOTED


def parse_json(text: str) -> Any:
    """Parse a JSON object or array; None if the text is damaged, nested too deep or anything else.

    If the text is a JSON string that contains JSON, the inner value is parsed. ``NaN`` is accepted
    because ComfyUI writes it. The interpreter's recursion limit bounds the depth.
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
