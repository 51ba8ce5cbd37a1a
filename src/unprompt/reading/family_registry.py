"""The generator families, one row each, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields

from unprompt.reading.families import (
    a1111,
    ai_declaration,
    comfyui_graphs,
    descriptions,
    fooocus,
    invokeai,
    json_objects,
    midjourney,
    novelai,
    swarmui,
)
from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.result import Reading, Settings, changed, cleaned


@dataclass(frozen=True, slots=True)
class Family:
    """A family of generators that write metadata in the same form.

    ``read`` returns None for files of other families, and a `Reading` without a prompt for its own
    files that state none. It is called only if a field has a name in ``places``, or a name in
    ``json`` and a text that looks like JSON. None means any name.
    """

    name: str
    read: Callable[[ImageTexts], Reading | None]
    places: Collection[str] | None = ()
    json: Collection[str] | None = ()


FAMILIES = (
    Family("SwarmUI", swarmui.read, json=swarmui.PLACES),
    Family("InvokeAI", invokeai.read, places=invokeai.PLACES),
    Family("NovelAI", novelai.read, places=("Software",), json=novelai.PLACES),
    Family("Fooocus", fooocus.read, places=(fooocus.SCHEME, "MakerNote"), json=fooocus.PLACES),
    Family("TensorArt, Stability Matrix", json_objects.read_named, json=json_objects.NAMED),
    Family(
        "Draw Things",
        json_objects.read_draw_things,
        (json_objects.TOOL,),
        json_objects.DRAW_THINGS_PLACES,
    ),
    Family("Midjourney", midjourney.read, places=midjourney.PLACES),
    Family("key per line", json_objects.read_lines, places=json_objects.LINE_PLACES),
    Family("AUTOMATIC1111, Forge, SD.Next", a1111.read, places=a1111.PLACES),
    Family("ComfyUI", comfyui_graphs.read, places=None),
    Family("JSON object", json_objects.read, json=None),
    Family("key per chunk", json_objects.read_chunks, places=None),
    Family("prompt in a description", descriptions.read, places=descriptions.PLACES),
    Family("C2PA, IPTC and AIGC", ai_declaration.read, places=ai_declaration.PLACES),
)
"""Families with unmistakable marks come before those that accept any text of their form."""


def _by_name(looked_at: list[Collection[str] | None]) -> tuple[int, dict[str, int]]:
    """Bit sets of families: those that accept any field name, and those of each name."""
    anywhere, by_name = 0, dict[str, int]()
    for number, names in enumerate(looked_at):
        anywhere |= (names is None) << number
        for name in names or ():
            by_name[name] = by_name.get(name, 0) | 1 << number
    return anywhere, by_name


_ANYWHERE, _BY_PLACE = _by_name([family.places for family in FAMILIES])
_ANY_JSON, _BY_JSON = _by_name([family.json for family in FAMILIES])


def ask_families(texts: ImageTexts) -> Reading | None:
    """The reading of the first family that finds a prompt, else of the first that knows the file.

    Missing settings are taken from a ComfyUI graph in the same file. Every text in the reading is
    valid Unicode.
    """
    reading = _first_answer(texts)
    if reading is not None and not reading.declares_ai and ai_declaration.declares(texts):
        reading = changed(reading, declares_ai=True)
    return cleaned(reading) if reading is not None and texts.surrogates else reading


def _first_answer(texts: ImageTexts) -> Reading | None:
    asked = _ANYWHERE
    for field in texts.fields:
        asked |= _BY_PLACE.get(field.name, 0)
    for field in texts.json_fields:
        asked |= _BY_JSON.get(field.name, 0) | _ANY_JSON
    silent = None
    for number, family in enumerate(FAMILIES):
        if not asked >> number & 1:
            continue
        reading = family.read(texts)
        if reading is not None and reading.prompt is not None and reading.prompt.strip():
            if reading.settings.seed is None and reading.generator != "ComfyUI":
                graph = comfyui_graphs.read(texts)
                return _completed(reading, graph) if graph else reading
            return reading
        silent = silent or reading
    return silent


def _completed(reading: Reading, other: Reading) -> Reading:
    missing = {
        field.name: getattr(other.settings, field.name)
        for field in fields(Settings)
        if getattr(reading.settings, field.name) in (None, ())
    }
    return changed(reading, settings=changed(reading.settings, **missing))
