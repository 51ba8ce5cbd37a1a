"""ComfyUI: its API prompt and its workflow, in PNG chunks or any other text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from unprompt.reading.comfyui.graph import Graph, from_api_prompt, is_api_prompt
from unprompt.reading.comfyui.sampler_search import Origin, first_sampler, main_origin, origins
from unprompt.reading.comfyui.sampler_settings import settings_of
from unprompt.reading.comfyui.workflow import from_workflow, is_workflow
from unprompt.reading.image_texts import ImageTexts, parse_json
from unprompt.reading.key_values import KeyValues, is_description, read_key_values
from unprompt.reading.result import Field, Prompt, Reading, Settings

_PREFIX = re.compile(r"\s*\w{1,40}\s*:\s*(?=[{\[])")
_MAX_DEPTH = 3
_MAX_ORIGINS = 200
_ALTERNATIVES = re.compile(r"\{[^{}]*\|[^{}]*\}")
"""``{cat|dog}``: the editor picks one when it queues a prompt; the workflow does not say which."""
_FORMS = (
    ("class_type", is_api_prompt, from_api_prompt),
    ("nodes", is_workflow, from_workflow),
)
"""For each form of a graph: a word in its text, the test for the form, and the builder."""


def read(texts: ImageTexts) -> Reading | None:
    """The prompt of the graph that was run, else of the workflow in the editor."""
    silent = None
    for mark, is_graph, build in _FORMS:
        for field in texts.fields:
            if mark not in field.text:  # quick test before parsing
                continue
            for value in _values(texts, field):
                if is_graph(value):
                    reading = _read_graph(field, build(value), build is from_api_prompt)
                    if reading.prompt is not None and reading.prompt.strip():
                        return reading
                    silent = silent or reading
    return _read_extra(texts) or silent


def _values(texts: ImageTexts, field: Field) -> list[dict[str, Any]]:
    """The JSON in a field, also after ``Prompt:`` or inside another object."""
    value = texts.json(field)
    if value is None and field.whole and (prefix := _PREFIX.match(field.text[:200])):
        value = texts.parse(field.text[prefix.end() :])
    if not isinstance(value, dict):
        return []
    return [*_with_inner(value, 0)]


def _with_inner(value: dict[str, Any], depth: int) -> Iterator[dict[str, Any]]:
    """An object and, unless it is a graph, the objects inside it."""
    yield value
    if depth < _MAX_DEPTH and not is_api_prompt(value) and not is_workflow(value):
        for inner in islice(value.values(), 50):
            inner = parse_json(inner) if isinstance(inner, str) else inner
            if isinstance(inner, dict):
                yield from _with_inner(inner, depth + 1)


def _read_graph(field: Field, graph: Graph, is_run: bool) -> Reading:
    found = origins(graph)
    if not found:
        sampler = first_sampler(graph)
        settings = settings_of(graph, sampler) if sampler else Settings()
        return Reading(None, generator="ComfyUI", settings=settings, where=(str(field),))
    main = main_origin(graph, found)
    prompt = main.positive[0].text
    return Reading(
        prompt=prompt,
        negative_prompt=main.negative[0].text if main.negative else None,
        generator="ComfyUI",
        settings=settings_of(graph, main.node),
        prompts=tuple(_prompts([main, *found[:_MAX_ORIGINS]] if len(found) > 1 else found)),
        where=(str(field),),
        certain=main.positive[0].certain and (is_run or _ALTERNATIVES.search(prompt) is None),
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


def _read_extra(texts: ImageTexts) -> Reading | None:
    """Civitai stores the request of the user beside the graph that it built."""
    for field, value in texts.objects("extraMetadata"):
        extra = value.get("extraMetadata")
        if isinstance(extra, str):
            extra = parse_json(extra)
        if isinstance(extra, dict) and is_description(KeyValues(extra)):
            return read_key_values(extra, str(field), "Civitai")
    return None
