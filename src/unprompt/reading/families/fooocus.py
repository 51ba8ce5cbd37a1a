"""Fooocus and its forks (Fooocus-MRE, RuinedFooocus, SimpleSDXL...)."""

from __future__ import annotations

from typing import Any

from unprompt.reading.families import a1111
from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.infotext import parse_infotext
from unprompt.reading.key_values import (
    KeyValues,
    loras_of,
    prompts_of,
    settings_of,
    sides_of,
    squeeze_all,
    text_of,
)
from unprompt.reading.result import Field, Prompt, Reading, Settings, as_text, changed

SCHEME = "fooocus_scheme"
PLACES = ("parameters", "UserComment", "Comment", "comment", "metadata")
_OWN_KEYS = frozenset(
    ("metadatascheme", "promptexpansion", "fullprompt", "fooocusv2expansion", "admguidance")
).union(("realprompt", "performance", "styles", "sharpness"))


def read(texts: ImageTexts) -> Reading | None:
    """The prompt as typed; the texts that Fooocus made from it are in ``prompts``."""
    scheme = texts.text(SCHEME)
    if scheme is None and (texts.text("Software") or "").startswith("Fooocus"):
        scheme = texts.text("MakerNote")  # in JPEG and WebP
    for field in texts.named(*PLACES):
        value = texts.json(field)
        if not isinstance(value, dict):
            continue
        software = str(value.get("software", ""))
        named = scheme or "Fooocus" in software or "Fooocus" in str(value.get("version", ""))
        if not named and len(_OWN_KEYS.intersection(squeeze_all(value))) < 2:
            continue
        keyed = KeyValues(value)
        if "prompt" in keyed or "realprompt" in keyed:
            return _read(field, value, keyed, software, texts)
    if scheme and (plain := texts.find("parameters", "UserComment")):
        reading = a1111.to_reading(parse_infotext(plain.text), str(plain))
        version = reading.version or (texts.text("Software") or "").partition(" v")[2] or None
        return changed(reading, generator="Fooocus", version=version)
    return None


def _read(
    field: Field, value: dict[str, Any], keyed: KeyValues, software: str, texts: ImageTexts
) -> Reading:
    version = as_text(keyed.get("version")) or texts.text("fooocus_version")
    generator, _, number = (software or version or "Fooocus").partition(" ")
    if not generator.isalpha():
        generator, number = "Fooocus", version or ""
    where = str(field)
    positive, negative = sides_of(keyed)
    prompts = prompts_of(positive, negative, where)
    if real := text_of(keyed.get("realprompt")):  # Fooocus-MRE: ``prompt`` is the styled text
        positive, negative = real, text_of(keyed.get("realnegativeprompt"))
    prompts += _extra(keyed.get("fullprompt"), "encoder", "full_prompt")
    prompts += _extra(keyed.get("fullnegativeprompt"), "encoder negative", "full_negative_prompt")
    prompts += _extra(keyed.get("promptexpansion", "fooocusv2expansion"), "expansion", "expansion")
    return Reading(
        prompt=positive,
        negative_prompt=negative,
        generator=generator,
        version=number.lstrip("v") or None,
        settings=_with_loras(settings_of(keyed), value),
        prompts=tuple(prompts),
        where=(where,),
    )


def _extra(value: object, role: str, source: str) -> list[Prompt]:
    texts = value if isinstance(value, list) else [value]
    return [Prompt(text, role, source) for text in texts if isinstance(text, str) and text.strip()]


def _with_loras(settings: Settings, value: dict[str, Any]) -> Settings:
    """Add LoRAs written as ``lora_combined_1: name : weight``, the form of the Fooocus log."""
    combined = [
        [name.strip(), weight.strip()]
        for key, item in value.items()
        if key.startswith(("lora_combined_", "LoRA ")) and isinstance(item, str)
        for name, _, weight in [item.rpartition(" : ")]
        if name
    ]
    return changed(settings, loras=(*settings.loras, *loras_of(combined))) if combined else settings
