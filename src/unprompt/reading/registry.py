"""The registry of generator families: one row each, tried in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from unprompt.reading.answer import Reading, Settings, cleaned
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


@dataclass(frozen=True, slots=True)
class Family:
    """A family of generators that write their metadata alike.

    ``read`` gives None for a file of another family, and a `Reading` without a prompt for one of
    its own that states none. ``places`` are the names of the fields that it looks at: it is asked
    only where one of them is there. None means any. ``json``: it is asked only where some field
    looks like JSON.
    """

    name: str
    read: Callable[[Carrier], Reading | None]
    places: frozenset[str] | None = None
    json: bool = False


FAMILIES = (
    Family("SwarmUI", swarmui.read, frozenset(swarmui.PLACES), json=True),
    Family("Fooocus", fooocus.read, frozenset(fooocus.PLACES)),
    Family("InvokeAI", invokeai.read, frozenset(invokeai.PLACES)),
    Family("NovelAI", novelai.read, frozenset(novelai.PLACES)),
    Family("TensorArt, Stability Matrix", objects.read_named, frozenset(objects.NAMED), json=True),
    Family("Draw Things", objects.read_draw_things, frozenset(objects.DRAW_THINGS_PLACES)),
    Family("Midjourney", midjourney.read, frozenset(midjourney.PLACES)),
    Family("key per line", objects.read_lines, frozenset(objects.LINE_PLACES)),
    Family("AUTOMATIC1111, Forge, SD.Next", a1111.read, frozenset(a1111.PLACES)),
    Family("ComfyUI", comfyui.read),
    Family("JSON object", objects.read, json=True),
    Family("key per chunk", objects.read_chunks),
    Family("C2PA and IPTC", declared.read, frozenset(declared.PLACES)),
)
"""Families with marks of their own come before those that take any text of their form."""

_ANYWHERE = tuple(number for number, family in enumerate(FAMILIES) if family.places is None)
_BY_PLACE = {
    place: tuple(n for n, family in enumerate(FAMILIES) if place in (family.places or ()))
    for place in frozenset[str]().union(*(family.places or () for family in FAMILIES))
}
"""The families that look at a place, by their numbers: most files' names lead to few of them."""


def recognise(carrier: Carrier) -> Reading | None:
    """The answer of the first family that finds a prompt, else of the first that finds itself.

    Settings that it does not state are taken from a ComfyUI graph in the same file. Every text of
    the answer is valid Unicode.
    """
    reading = _asked(carrier)
    return cleaned(reading) if reading is not None and carrier.surrogates else reading


def _asked(carrier: Carrier) -> Reading | None:
    silent = None
    plain = not carrier.may_hold_json
    numbers = set(_ANYWHERE)
    for name in carrier.names:
        numbers.update(_BY_PLACE.get(name, ()))
    for number in sorted(numbers):
        family = FAMILIES[number]
        if family.json and plain:
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
    return replace(reading, settings=replace(reading.settings, **missing))
