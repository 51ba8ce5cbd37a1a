"""Generators that write keys and values: as one JSON object, one chunk per key, or lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from unprompt.reading.comfyui.graph import is_api_prompt
from unprompt.reading.comfyui.workflow import is_workflow
from unprompt.reading.families import a1111
from unprompt.reading.image_texts import ImageTexts, parse_json
from unprompt.reading.infotext import Infotext, parse_infotext
from unprompt.reading.key_values import (
    PROMPT,
    KeyValues,
    is_description,
    prompts_of,
    read_key_values,
)
from unprompt.reading.result import Field, Reading, changed

TOOL = "xmp:CreatorTool"
DRAW_THINGS_PLACES = ("exif:UserComment", "UserComment")
LINE_PLACES = ("parameters", "UserComment", "Comment", "comment")
_OPENING = re.compile(r"\s*Prompt: ", re.IGNORECASE)
_A1111 = re.compile(r"^Steps: \d+,", re.MULTILINE)
_LINE = re.compile(r"^([A-Za-z][\w \-]{0,40}): (.*)$", re.MULTILINE)
_MAX_DEPTH = 3
_INFOTEXTS = ("infotexts", "infotext", "parameters")
"""Keys under which JSON holds a text in A1111 form, or a list of them."""
_CHUNK_CONTAINERS = ("PNG", "stealth")


@dataclass(frozen=True, slots=True)
class _Mark:
    """Keys (squeezed) that only one generator writes."""

    generator: str
    keys: tuple[str, ...]


_MARKS = (
    _Mark("MFLUX", ("mfluxversion",)),
    _Mark("Easy Diffusion", ("usestablediffusionmodel",)),
    _Mark("Easy Diffusion", ("stablediffusionmodel", "guidancescale")),
    _Mark("TensorArt", ("basemodel", "ksamplername")),
    _Mark("Stability Matrix", ("positiveprompt", "cfgscale", "modelversionid")),
)
NAMED = {"generation_data": "TensorArt", "parameters-json": "Stability Matrix"}


def read_named(texts: ImageTexts) -> Reading | None:
    """TensorArt (``generation_data``) and Stability Matrix (``parameters-json``)."""
    for name, generator in NAMED.items():
        if (found := texts.mapping(name)) and is_description(KeyValues(found[1])):
            return read_key_values(found[1], str(found[0]), generator)
    return None


def read_draw_things(texts: ImageTexts) -> Reading | None:
    """Draw Things: XMP with its name as creator and JSON (``c``, ``uc``) as user comment."""
    for field, value in texts.objects('"c"', *DRAW_THINGS_PLACES):
        if not isinstance(value.get("c"), str):
            continue
        if "uc" in value or "Draw Things" in (texts.text(TOOL) or ""):
            named = {("prompt" if key == "c" else key): item for key, item in value.items()}
            return read_key_values(named, str(field), "Draw Things")
    described = texts.find("dc:description")
    if described and texts.text(TOOL) == "Draw Things":
        infotext = parse_infotext(described.text)
        prompt, dash, negative = infotext.prompt.rpartition("\n-")
        if dash and infotext.negative_prompt is None:  # marks the negative prompt
            infotext = Infotext(prompt, negative, infotext.values, infotext.certain)
        return changed(a1111.to_reading(infotext, str(described)), generator="Draw Things")
    return None


def read(texts: ImageTexts) -> Reading | None:
    """Any JSON object with a prompt and settings: Easy Diffusion, Hugging Face spaces..."""
    for field in texts.json_fields:
        value = texts.json(field)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, dict) and (reading := _read_object(value, field, 0)):
            return reading
    return None


def _read_object(value: dict[str, Any], field: Field, depth: int) -> Reading | None:
    """The reading of an object, or of one inside it: ``infotexts``, ``settings``, ``meta``..."""
    if "class_type" in value or is_api_prompt(value) or is_workflow(value):
        return None
    for key in _INFOTEXTS:
        text = value.get(key)
        text = text[0] if isinstance(text, list) and text else text
        if isinstance(text, str) and (infotext := parse_infotext(text)).certain:
            return a1111.to_reading(infotext, str(field))
    keyed = KeyValues(value)
    if is_description(keyed):
        return _without_horde_mark(read_key_values(value, str(field), _generator(keyed)), value)
    if depth >= _MAX_DEPTH:
        return None
    inner = [item for item in map(_as_object, islice(value.values(), 100)) if item]
    if keyed.has_any(PROMPT):
        for item in inner:
            merged = {**item, **value}
            if isinstance(keyed.get(*PROMPT), str) and is_description(KeyValues(merged)):
                reading = read_key_values(merged, str(field), _generator(KeyValues(merged)))
                return _without_horde_mark(reading, value)
    return next((found for item in inner if (found := _read_object(item, field, depth + 1))), None)


def _as_object(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str) and value[:1] == "{":
        value = parse_json(value)
    return value if isinstance(value, dict) else None


def _without_horde_mark(reading: Reading, value: dict[str, Any]) -> Reading:
    """AI Horde joins the two prompts: ``prompt ### negative prompt``."""
    prompt, mark, negative = (reading.prompt or "").partition("###")
    if not mark or reading.negative_prompt or not ("params" in value or "models" in value):
        return reading
    prompt, negative = prompt.strip(), negative.strip()
    prompts = tuple(prompts_of(prompt, negative, reading.where[0]))
    return changed(
        reading,
        prompt=prompt,
        negative_prompt=negative,
        prompts=prompts,
        generator=reading.generator or "AI Horde",
    )


def read_chunks(texts: ImageTexts) -> Reading | None:
    """One text chunk per key: Easy Diffusion, scripts with diffusers, kohya's generator."""
    fields = [field for field in texts.fields if field.place.startswith(_CHUNK_CONTAINERS)]
    keyed = KeyValues({f.name: f.text for f in reversed(fields) if f.whole})
    prompt = keyed.get(*PROMPT)
    if not isinstance(prompt, str) or prompt.lstrip().startswith(("{", "[{")):
        return None
    if not is_description(keyed):  # a text under this name alone may be anything
        return None
    reading = read_key_values(keyed, fields[0].place, _generator(keyed))
    return changed(reading, where=(f"{fields[0].place} prompt",))


def read_lines(texts: ImageTexts) -> Reading | None:
    """One line per key, first ``Prompt: ...``: the text file of Easy Diffusion."""
    for field in texts.named(*LINE_PLACES):
        if field.whole and _OPENING.match(field.text):
            lines = _LINE.findall(field.text[:200_000])
            keyed = KeyValues(dict(lines))
            if len(lines) >= 3 and is_description(keyed) and not _A1111.search(field.text):
                return read_key_values(keyed, str(field), _generator(keyed))
    return None


def _generator(keyed: KeyValues) -> str | None:
    for mark in _MARKS:
        if all(key in keyed for key in mark.keys):
            return mark.generator
    software = keyed.get("software", "generator", "app")
    if isinstance(software, str) and software.strip():
        return software
    return "diffusers" if keyed.has_any(("numinferencesteps", "guidancescale")) else None
