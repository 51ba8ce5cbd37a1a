"""The registry of generator families: one row each, tried in order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields

from unprompt.reading.carrier import Carrier
from unprompt.reading.families import (
    a1111,
    comfyui,
    declared,
    fooocus,
    invokeai,
    midjourney,
    novelai,
    objects,
    swarmui,
)
from unprompt.reading.result import Reading, Settings, changed, cleaned


@dataclass(frozen=True, slots=True)
class Family:
    """A family of generators that write their metadata alike.

    ``read`` gives None for a file of another family, and a `Reading` without a prompt for one of
    its own that states none. It is asked only where there is a field with one of the names in
    ``places``, or one with a name in ``json`` that looks like JSON. None means any name.
    """

    name: str
    read: Callable[[Carrier], Reading | None]
    places: Collection[str] | None = ()
    json: Collection[str] | None = ()


FAMILIES = (
    Family("SwarmUI", swarmui.read, json=swarmui.PLACES),
    Family("InvokeAI", invokeai.read, places=invokeai.PLACES),
    Family("NovelAI", novelai.read, places=("Software",), json=novelai.PLACES),
    Family("Fooocus", fooocus.read, places=(fooocus.SCHEME,), json=fooocus.PLACES),
    Family("TensorArt, Stability Matrix", objects.read_named, json=objects.NAMED),
    Family("Draw Things", objects.read_draw_things, (objects.TOOL,), objects.DRAW_THINGS_PLACES),
    Family("Midjourney", midjourney.read, places=midjourney.PLACES),
    Family("key per line", objects.read_lines, places=objects.LINE_PLACES),
    Family("AUTOMATIC1111, Forge, SD.Next", a1111.read, places=a1111.PLACES),
    Family("ComfyUI", comfyui.read, places=None),
    Family("JSON object", objects.read, json=None),
    Family("key per chunk", objects.read_chunks, places=None),
    Family("C2PA and IPTC", declared.read, places=declared.PLACES),
)
"""Families with marks of their own come before those that take any text of their form."""


def _by_name(looked_at: list[Collection[str] | None]) -> tuple[int, dict[str, int]]:
    """The families that look at any name, and at each name: a bit for each."""
    anywhere, by_name = 0, dict[str, int]()
    for number, names in enumerate(looked_at):
        anywhere |= (names is None) << number
        for name in names or ():
            by_name[name] = by_name.get(name, 0) | 1 << number
    return anywhere, by_name


_ANYWHERE, _BY_PLACE = _by_name([family.places for family in FAMILIES])
_ANY_JSON, _BY_JSON = _by_name([family.json for family in FAMILIES])


def recognise(carrier: Carrier) -> Reading | None:
    """The answer of the first family that finds a prompt, else of the first that finds itself.

    Settings that it does not state are taken from a ComfyUI graph in the same file. Every text of
    the answer is valid Unicode.
    """
    reading = _asked(carrier)
    return cleaned(reading) if reading is not None and carrier.surrogates else reading


def _asked(carrier: Carrier) -> Reading | None:
    asked = _ANYWHERE
    for field in carrier.fields:
        asked |= _BY_PLACE.get(field.name, 0)
    for name in carrier.json_names:
        asked |= _BY_JSON.get(name, 0) | _ANY_JSON
    silent = None
    for number, family in enumerate(FAMILIES):
        if not asked >> number & 1:
            continue
        reading = family.read(carrier)
        if reading is not None and reading.prompt is not None and reading.prompt.strip():
            if reading.settings.seed is None and reading.generator != "ComfyUI":
                graph = comfyui.read(carrier)
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
