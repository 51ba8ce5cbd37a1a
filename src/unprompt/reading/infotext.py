"""Parse and write the A1111 form: prompt, ``Negative prompt:`` and a line of ``Key: value`` pairs.

AUTOMATIC1111's web UI (modules/infotext_utils.py) and, with small changes, most other programs
write it. `families.a1111` decides which program wrote a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from unprompt.reading.result import Lora, Settings, as_float, as_int

_NEGATIVE = "Negative prompt:"
_KEY = re.compile(r"\s*([A-Za-z_][\w .\-/()+]{0,60}+):[ \t]*")
_STEPS = re.compile(r"^\s*Steps:\s*\d")
_STEPS_INSIDE = re.compile(r"(?<!Hires )(Steps: ?\d{1,6}, ?[A-Z])")
_BREAK = re.compile(r"(?:\s|<br ?/?>|\\[rn]|&#1[03];|\|)+\Z")
"""What web tools write instead of a line break."""
_PAIR = re.compile(r"\b[A-Z][\w \-/]{0,40}:\s*[^,\s]")
_LORA_TAG = re.compile(r"<(?:lora|lyco|lokr|loha):([^:<>]{1,300}):?([-+.\d]*)[^<>]{0,100}>")
_SIZE = re.compile(r"(\d{1,6})\s*[x×]\s*(\d{1,6})")
_MAX_PAIRS = 400
_SHORT = 4000
_KNOWN = frozenset(
    ("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model", "VAE")
).union(("Denoising strength", "Clip skip", "Version", "Lora hashes", "Hires upscale"))


@dataclass(slots=True)
class Infotext:
    """The three parts of a text in A1111 form.

    Attributes:
        prompt: the lines before the negative prompt, unchanged.
        negative_prompt: None if there is no such line.
        values: the pairs of the settings line in order, without quotes.
        certain: True if the text has settings or a negative prompt, so that it cannot be any
            other text.
    """

    prompt: str
    negative_prompt: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    certain: bool = False


def parse_infotext(text: str) -> Infotext:
    """Split a text in A1111 form; any other text becomes the prompt as a whole.

    The settings start at the last line that begins with ``Steps: `` and a number. Without such a
    line, the last of several lines holds the settings if it has three pairs and a known key, or
    only known keys. Else the settings may follow ``Steps: `` inside a line. The negative prompt
    starts at the first line that begins with ``Negative prompt:``; these words inside a line belong
    to the prompt.
    """
    text = text.removeprefix("\ufeff").rstrip("\0")
    lines = text.split("\n")
    start = _settings_start(lines)
    stated = start < len(lines)
    values = parse_values("\n".join(lines[start:])) if stated else {}
    if not stated and "Steps:" in text and (flattened := _flattened(text)):
        return flattened
    lines = lines[:start]
    for number, line in enumerate(lines) if _NEGATIVE in text else ():
        if (bare := line.lstrip()).startswith(_NEGATIVE):
            first = bare[len(_NEGATIVE) :].removeprefix(" ")
            negative = "\n".join([first, *lines[number + 1 :]])
            return Infotext(_joined(lines[:number]), negative.removesuffix("\r"), values, True)
    return Infotext(_joined(lines), None, values, stated)


def _flattened(text: str) -> Infotext | None:
    """A text whose line breaks became spaces, dots or marks, as some web tools store it."""
    start = None
    for match in _STEPS_INSIDE.finditer(text):
        start = match
    if start is None:
        return None
    values = parse_values(text[start.start(1) :])
    if len(_KNOWN.intersection(values)) < 3:
        return None
    before = text[: start.start()]
    prompt, mark, negative = before.partition(_NEGATIVE)
    dotted = before.endswith(".")  # a dot stands for each line break
    prompt, negative = _BREAK.sub("", prompt), _BREAK.sub("", negative).lstrip()
    if dotted:
        prompt, negative = prompt.removesuffix("."), negative.removesuffix(".")
    return Infotext(prompt, negative if mark else None, values, True)


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).removesuffix("\r")


def _settings_start(lines: list[str]) -> int:
    for number in range(len(lines) - 1, -1, -1):
        if _STEPS.match(lines[number]):
            return number
    last = len(lines)
    while last and not lines[last - 1].strip():
        last -= 1
    if last and not lines[last - 1].lstrip().startswith(_NEGATIVE):
        line = lines[last - 1]
        first = _KEY.match(line)
        if first and last > 1:
            keys = set(parse_values(line))
            if keys <= _KNOWN or (len(_PAIR.findall(line[:20_000])) >= 3 and keys & _KNOWN):
                return last - 1
    return len(lines)


def has_settings(text: str) -> bool:
    """Whether a text is certainly in A1111 form: it has settings or a negative prompt."""
    return parse_infotext(text).certain


def parse_values(text: str) -> dict[str, str]:
    """Parse ``Key: value, Key: value``; a value may be quoted, or a JSON object or array.

    Text without a key is skipped up to the next comma. Of a repeated key the last value counts,
    as in A1111.
    """
    values: dict[str, str] = {}
    if len(text) < _SHORT and not ('"' in text or "[" in text or "{" in text):
        for pair in text.replace("\n", ",").split(","):
            key, colon, value = pair.partition(":")
            if colon:
                values[key.strip()] = value.strip()
        return values
    at = 0
    for _ in range(_MAX_PAIRS):
        opening = _KEY.match(text, at)
        if opening is None:
            at = text.find(",", at) + 1
            if at == 0:
                break
            continue
        value, at = _value(text, opening.end())
        values[opening[1].rstrip()] = value
        while at < len(text) and text[at] in ", \r\n\t":
            at += 1
    return values


def _value(text: str, at: int) -> tuple[str, int]:
    opening = text[at : at + 1]
    if opening in ('"', "[", "{"):
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(text, at)
        except (ValueError, RecursionError):
            pass
        else:
            if end == len(text) or text[end] in ", \r\n":
                return (value if isinstance(value, str) else text[at:end]), end
    end = text.find(",", at)
    end = len(text) if end < 0 else end
    line = text.find("\n", at, end)
    end = end if line < 0 else line
    return text[at:end].strip(), end


def settings_of(infotext: Infotext) -> Settings:
    """The settings in the values; keys without a field in `Settings` go to ``other``."""
    left = dict(infotext.values)
    pop = left.pop
    size = _SIZE.search(pop("Size", ""))
    tags = _LORA_TAG.findall(infotext.prompt) if "<" in infotext.prompt else ()
    loras = {name: as_float(weight) for name, weight in tags}
    if "Lora hashes" in left:
        for name in _lora_hashes(left["Lora hashes"]):
            loras.setdefault(name, None)
    guidance = pop("CFG scale", None) or pop("CFG Scale", None)
    return Settings(
        model=pop("Model", None) or pop("model", None) or None,
        model_hash=pop("Model hash", None) or None,
        seed=as_int(pop("Seed", None)),
        steps=as_int(pop("Steps", None)),
        sampler=pop("Sampler", None) or None,
        scheduler=pop("Schedule type", None) or pop("Scheduler", None) or None,
        guidance=as_float(guidance or pop("Guidance Scale", None) or pop("Guidance scale", None)),
        width=int(size[1]) if size else None,
        height=int(size[2]) if size else None,
        denoise=as_float(pop("Denoising strength", None) or pop("Denoise", None)),
        clip_skip=as_int(pop("Clip skip", None)),
        vae=pop("VAE", None) or None,
        loras=tuple([Lora(name, weight) for name, weight in loras.items()]),
        other=left,
    )


def _lora_hashes(value: str) -> list[str]:
    if value.startswith("{"):
        return []
    return [
        name.strip() for name, colon, _ in (p.partition(":") for p in value.split(",")) if colon
    ]


def format_infotext(
    prompt: str, negative_prompt: str | None = None, settings: Settings | None = None
) -> str:
    """Write the A1111 form; values are quoted where necessary.

    Raises:
        ValueError: a line of the prompts would be read back as another part of the form.
    """
    settings = settings or Settings()
    size = settings.size
    stated: dict[str, object] = {
        "Steps": settings.steps,
        "Sampler": settings.sampler,
        "Schedule type": settings.scheduler,
        "CFG scale": settings.guidance,
        "Seed": settings.seed,
        "Size": f"{size[0]}x{size[1]}" if size else None,
        "Model hash": settings.model_hash,
        "Model": settings.model,
        "VAE": settings.vae,
        "Denoising strength": settings.denoise,
        "Clip skip": settings.clip_skip,
        **settings.other,
    }
    pairs = [f"{key}: {_quoted(value)}" for key, value in stated.items() if value is not None]
    lines = [prompt]
    if negative_prompt:
        lines.append(f"{_NEGATIVE} {negative_prompt}")
    if pairs:
        lines.append(", ".join(pairs))
    text = "\n".join(lines)
    back = parse_infotext(text)
    if back.prompt != prompt or (back.negative_prompt or "") != (negative_prompt or ""):
        raise ValueError(
            "the A1111 form cannot hold this prompt: one of its lines reads like "
            f"'{_NEGATIVE}' or like a line of settings; reword that line"
        )
    return text


def _quoted(value: object) -> str:
    text = str(value)
    if isinstance(value, float) and value == int(value):
        text = str(int(value))
    if any(mark in text for mark in ',:\n"') or text != text.strip() or text[:1] in ("{", "["):
        return json.dumps(text, ensure_ascii=False)
    return text
