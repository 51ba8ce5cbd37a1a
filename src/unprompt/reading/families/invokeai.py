"""InvokeAI in its four historical forms.

``Dream`` (2022: a command line), ``sd-metadata`` (to 2.x), ``invokeai`` (2.3 to 3.0: a node) and
``invokeai_metadata`` (since 3.0), the last two with ``invokeai_graph`` or ``invokeai_workflow``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.key_values import KeyValues, name_of, read_key_values, settings_of
from unprompt.reading.result import (
    Field,
    Prompt,
    Reading,
    Settings,
    as_float,
    as_int,
    as_text,
    changed,
)

_NAME = "InvokeAI"
_RENAMED = {"positive_conditioning": "prompt", "negative_conditioning": "negative_prompt"}
_GRAPHS = ("invokeai_graph", "invokeai_workflow")
_IN_BRACKETS = re.compile(r"(?<!\\)\[([^\[\]]{0,20000})\]")
_OPTION = re.compile(r"-(?:([sSWHCf])([\d.]*)|(A)([a-z]\w*)?)")

_PLACEHOLDERS = frozenset(
    ("none", "null", "prompt", "placeholder", "unknown", "undefined", "n/a", "...", "<prompt>")
).union(("<placeholder>", "(none)", "(unknown)", "[none]", "your prompt here"))

PLACES = ("invokeai_metadata", "invokeai", "sd-metadata", *_GRAPHS, "Dream", "dream")


def read(texts: ImageTexts) -> Reading | None:
    """The newest form in the file."""
    forms: tuple[tuple[str, Callable[[Field, dict[str, Any]], Reading]], ...] = (
        ("invokeai_metadata", _read_metadata),
        ("invokeai", _read_metadata),
        ("sd-metadata", _read_sd_metadata),
        *((name, _read_graph) for name in _GRAPHS),
    )
    silent = None
    for name, reader in forms:
        if found := texts.mapping(name):
            reading = reader(*found)
            if reading.prompt is not None:
                return reading
            silent = silent or reading
    if field := texts.find("Dream", "dream"):
        reading = _read_dream(field)
        prompt = (reading.prompt or "").strip()
        if prompt and not prompt.startswith("!") and prompt.lower() not in _PLACEHOLDERS:
            return reading
        return silent or Reading(None, generator=_NAME, where=(str(field),))
    return silent


def _read_metadata(field: Field, value: dict[str, Any]) -> Reading:
    for key in ("metadata", "node"):
        if isinstance(inner := value.get(key), dict) and "positive_prompt" not in value:
            value = {**inner, **value}
    flat = {_RENAMED.get(key, key): item for key, item in value.items()}
    flat.setdefault("sampler", flat.pop("scheduler", None))
    if isinstance(model := value.get("model"), dict):
        flat["model_hash"] = model.get("hash")
    reading = read_key_values(flat, str(field), _NAME, as_text(value.get("app_version")))
    styles = [
        Prompt(text, role, key)
        for key, role in (
            ("positive_style_prompt", "style"),
            ("negative_style_prompt", "style negative"),
        )
        if (text := as_text(value.get(key)))
    ]
    return changed(reading, prompts=(*reading.prompts, *styles)) if styles else reading


def _read_sd_metadata(field: Field, value: dict[str, Any]) -> Reading:
    image = value.get("image")
    images = value.get("images")
    if not isinstance(image, dict) and isinstance(images, list) and images:
        image = images[0]
    if not isinstance(image, dict):
        return Reading(None, generator=_NAME, where=(str(field),))
    prompt = image.get("prompt")
    if isinstance(prompt, list):
        prompt = _weighted(prompt)
    text = as_text(prompt)
    prompts, negative = _split(text, str(field))
    model = as_text(value.get("model_id")) or as_text(value.get("model_weights"))
    settings = settings_of(
        KeyValues({**image, "model": model, "model_hash": value.get("model_hash")})
    )
    return Reading(
        prompt=text,
        negative_prompt=negative,
        generator=_NAME,
        version=as_text(value.get("app_version")),
        settings=settings,
        prompts=prompts,
        where=(str(field),),
    )


def _weighted(parts: list[Any]) -> str | None:
    """The prompt as typed: ``blue sphere:0.5 red cube:0.5``; a single part has no weight."""
    texts = []
    for part in parts[:100]:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("prompt"), str):
            weight = as_float(part.get("weight"))
            many = len(parts) > 1 and weight is not None
            texts.append(f"{part['prompt']}:{weight:g}" if many else part["prompt"])
    return " ".join(texts) or None


def _split(prompt: str | None, where: str) -> tuple[tuple[Prompt, ...], str | None]:
    """Prompts with their roles; before 3.0, square brackets enclosed the negative prompt."""
    if prompt is None:
        return (), None
    prompts = [Prompt(prompt, "positive", where)]
    negative = " ".join(_IN_BRACKETS.findall(prompt)).strip() or None
    if negative:
        prompts.append(Prompt(negative, "negative", where))
    return tuple(prompts), negative


def _read_dream(field: Field) -> Reading:
    text = field.text.strip()
    quoted = re.match(r'"((?:[^"\\]|\\.)*)"(?=\s+-|\s*$)', text) or re.match(
        r"'((?:[^'\\]|\\.)*)'(?=\s+-|\s*$)", text
    )
    if quoted:
        prompt, options = re.sub(r"\\([\"'\\])", r"\1", quoted[1]), text[quoted.end() :]
    else:
        flags = re.search(r"(?:^|\s)-{1,2}[A-Za-z]", text)
        prompt = text[: flags.start()] if flags else text
        options = text[flags.start() :] if flags else ""
    values: dict[str, str] = {}
    tokens = options[:20_000].split()
    for token, following in zip_longest(tokens, tokens[1:], fillvalue=""):
        if match := _OPTION.fullmatch(token):  # the value may be joined to its letter: -s50
            values.setdefault(match[1] or match[3], match[2] or match[4] or following)
        elif token.startswith("--"):
            name, _, value = token[2:].partition("=")
            values.setdefault(name, value or following)

    def option(*names: str) -> str | None:
        return next((values[name] for name in names if values.get(name)), None)

    prompts, negative = _split(prompt, str(field))
    settings = Settings(
        seed=as_int(option("S", "seed")),
        steps=as_int(option("s", "steps")),
        sampler=option("A", "sampler", "m"),
        guidance=as_float(option("C", "cfg_scale")),
        width=as_int(option("W", "width")),
        height=as_int(option("H", "height")),
        denoise=as_float(option("f", "strength")),
    )
    return Reading(prompt, negative, _NAME, settings=settings, prompts=prompts, where=(str(field),))


def _read_graph(field: Field, value: dict[str, Any]) -> Reading:
    """The prompt of a graph without metadata, found through the edges of the denoiser."""
    nodes = value.get("nodes")
    edges = value.get("edges")
    if isinstance(nodes, list):
        nodes = {node.get("id"): _plain(node) for node in nodes if isinstance(node, dict)}
    if not isinstance(nodes, dict) or not isinstance(edges, list):
        return Reading(None, generator=_NAME, where=(str(field),))
    links: dict[tuple[Any, str], Any] = {}
    for edge in edges[:10_000]:
        if isinstance(edge, dict):
            source, target, name = _ends(edge)
            if isinstance(source, str) and isinstance(target, str) and isinstance(name, str):
                links.setdefault((target, name), source)

    def text_at(node: Any, keys: tuple[str, ...], depth: int) -> str | None:
        if depth > 50 or not isinstance(nodes.get(node), dict):
            return None
        for key in ("prompt", "value", "text", "string"):
            if (source := links.get((node, key))) and (text := text_at(source, keys, depth + 1)):
                return text
            if text := as_text(nodes[node].get(key)):
                return text
        for key in keys:
            if (source := links.get((node, key))) and (text := text_at(source, keys, depth + 1)):
                return text
        return None

    found: dict[str, str | None] = {}
    onward = ("item", "collection", "conditioning")
    for target, name in links:
        for role in ("positive", "negative"):
            if name.startswith(role) and name.endswith("conditioning") and not found.get(role):
                found[role] = text_at(links[target, name], onward, 0)
    positive, negative = found.get("positive"), found.get("negative")
    denoiser = next(
        (node for node in nodes.values() if isinstance(node, dict) and "cfg_scale" in node), {}
    )
    prompts = tuple(
        Prompt(text, role, str(field))
        for text, role in ((positive, "positive"), (negative, "negative"))
        if text
    )
    settings = settings_of(KeyValues(denoiser))
    settings = changed(settings, sampler=settings.scheduler, scheduler=None, other={})
    if isinstance(loader := next(_with_model(nodes), None), dict):
        settings = changed(settings, model=name_of(loader.get("model")))
    return Reading(
        positive, negative, _NAME, settings=settings, prompts=prompts, where=(str(field),)
    )


def _with_model(nodes: dict[Any, Any]) -> Any:
    return (n for n in nodes.values() if isinstance(n, dict) and isinstance(n.get("model"), dict))


def _plain(node: dict[str, Any]) -> dict[str, Any]:
    """A node of a saved workflow; its inputs are objects with a ``value``."""
    data = node.get("data") if isinstance(node.get("data"), dict) else node
    inputs = data.get("inputs") if isinstance(data, dict) else None
    if not isinstance(inputs, dict):
        return {}
    return {k: v.get("value") if isinstance(v, dict) else v for k, v in inputs.items()}


def _ends(edge: dict[str, Any]) -> tuple[Any, Any, Any]:
    source, target = edge.get("source"), edge.get("destination", edge.get("target"))
    if isinstance(source, dict) and isinstance(target, dict):
        return source.get("node_id"), target.get("node_id"), target.get("field")
    return source, target, edge.get("targetHandle")
