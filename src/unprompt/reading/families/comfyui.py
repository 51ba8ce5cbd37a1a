"""ComfyUI: its API prompt and its workflow, in PNG chunks or in any EXIF text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from unprompt.reading.carrier import Carrier, parse_json
from unprompt.reading.comfyui.graph import Graph, from_api_prompt, is_api_prompt
from unprompt.reading.comfyui.origins import Origin, first_sampler, main_origin, origins
from unprompt.reading.comfyui.sampler_settings import settings_of
from unprompt.reading.comfyui.workflow import from_workflow, is_workflow
from unprompt.reading.keyed import Keyed, is_description, read_keyed
from unprompt.reading.result import Field, Prompt, Reading, Settings

_PREFIX = re.compile(r"\s*\w{1,40}\s*:\s*(?=[{\[])")
_MAX_ORIGINS = 200
_FORMS = (
    ("class_type", is_api_prompt, from_api_prompt),
    ("nodes", is_workflow, from_workflow),
)
"""A word that each form of a graph holds, what tells it for certain, and what builds the graph."""


def read(carrier: Carrier) -> Reading | None:
    """The prompt of the graph that was run, else of the workflow in the editor."""
    silent = None
    for mark, is_graph, build in _FORMS:
        for field in carrier.fields:
            if mark not in field.text:  # most texts need not be parsed to know
                continue
            for value in _values(carrier, field):
                if is_graph(value):
                    reading = _read_graph(field, build(value))
                    if reading.prompt is not None and reading.prompt.strip():
                        return reading
                    silent = silent or reading
    return _read_extra(carrier) or silent


def _values(carrier: Carrier, field: Field) -> list[dict[str, Any]]:
    """The JSON of a field, also behind ``Prompt:`` or inside an object of several."""
    value = carrier.json(field)
    if value is None and field.whole and (prefix := _PREFIX.match(field.text[:200])):
        value = carrier.parse(field.text[prefix.end() :])
    if not isinstance(value, dict):
        return []
    values = [value]
    for key in ("prompt", "workflow", "extra_pnginfo"):
        if (inner := value.get(key)) is not None:
            inner = parse_json(inner) if isinstance(inner, str) else inner
            if isinstance(inner, dict):
                values.append(inner)
    return values


def _read_graph(field: Field, graph: Graph) -> Reading:
    found = origins(graph)
    if not found:
        sampler = first_sampler(graph)
        settings = settings_of(graph, sampler) if sampler else Settings()
        return Reading(None, generator="ComfyUI", settings=settings, where=(str(field),))
    main = main_origin(graph, found)
    return Reading(
        prompt=main.positive[0].text,
        negative_prompt=main.negative[0].text if main.negative else None,
        generator="ComfyUI",
        settings=settings_of(graph, main.node),
        prompts=tuple(_prompts([main, *found[:_MAX_ORIGINS]] if len(found) > 1 else found)),
        where=(str(field),),
    )


def _prompts(found: list[Origin]) -> Iterator[Prompt]:
    seen: set[tuple[str, str]] = set()
    for origin in found:
        for side, texts in (("positive", origin.positive), ("negative", origin.negative)):
            for text in texts:
                if (text.text, side) in seen:
                    continue
                seen.add((text.text, side))
                role = side
                if text.role:
                    role = text.role if side == "positive" else f"{text.role} negative"
                yield Prompt(text.text, role, f"node {text.node}")


def _read_extra(carrier: Carrier) -> Reading | None:
    """Civitai keeps what the user asked for beside the graph it made of it."""
    for field, value in carrier.objects("extraMetadata"):
        extra = value.get("extraMetadata")
        if isinstance(extra, str):
            extra = parse_json(extra)
        if isinstance(extra, dict) and is_description(Keyed(extra)):
            return read_keyed(extra, str(field), "Civitai")
    return None
