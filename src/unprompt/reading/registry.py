"""The registry of generator families: one row each, tried in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from unprompt.reading.answer import Reading, Settings
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
    its own that states none.
    """

    name: str
    read: Callable[[Carrier], Reading | None]


FAMILIES = (
    Family("SwarmUI", swarmui.read),
    Family("Fooocus", fooocus.read),
    Family("InvokeAI", invokeai.read),
    Family("NovelAI", novelai.read),
    Family("TensorArt, Stability Matrix", objects.read_named),
    Family("Draw Things", objects.read_draw_things),
    Family("Midjourney", midjourney.read),
    Family("key per line", objects.read_lines),
    Family("AUTOMATIC1111, Forge, SD.Next", a1111.read),
    Family("ComfyUI", comfyui.read),
    Family("JSON object", objects.read),
    Family("key per chunk", objects.read_chunks),
    Family("C2PA and IPTC", declared.read),
)
"""Families with marks of their own come before those that take any text of their form."""


def recognise(carrier: Carrier) -> Reading | None:
    """The answer of the first family that finds a prompt, else of the first that finds itself.

    Settings that it does not state are taken from a ComfyUI graph in the same file.
    """
    silent = None
    for family in FAMILIES:
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
