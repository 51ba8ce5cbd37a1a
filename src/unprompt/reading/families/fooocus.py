"""Fooocus and its forks (Fooocus-MRE, RuinedFooocus, SimpleSDXL...)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unprompt.reading.answer import Field, Prompt, Reading, Settings, as_text
from unprompt.reading.carrier import Carrier
from unprompt.reading.families import a1111
from unprompt.reading.infotext import parse_infotext
from unprompt.reading.keyed import Keyed, loras_of, read_keyed, squeeze, text_of

PLACES = ("parameters", "UserComment", "Comment", "comment", "metadata")
_OWN_KEYS = frozenset(
    ("metadatascheme", "promptexpansion", "fullprompt", "fooocusv2expansion", "admguidance")
).union(("realprompt", "performance", "styles", "sharpness"))


def read(carrier: Carrier) -> Reading | None:
    """The prompt as typed; what Fooocus made of it is among ``prompts`` with its role."""
    scheme = carrier.text("fooocus_scheme")
    if scheme is None and not carrier.may_hold_json:
        return None
    for field in carrier.named(*PLACES):
        value = carrier.json(field)
        if not isinstance(value, dict):
            continue
        software = str(value.get("software", ""))
        named = scheme or "Fooocus" in software or "Fooocus" in str(value.get("version", ""))
        if not named and len(_OWN_KEYS.intersection(map(squeeze, value))) < 2:
            continue
        keyed = Keyed(value)
        if "prompt" in keyed or "realprompt" in keyed:
            return _read(field, value, keyed, software, carrier)
    if scheme and (plain := carrier.find("parameters", "UserComment")):
        reading = a1111.to_reading(parse_infotext(plain.text), str(plain))
        return replace(reading, generator="Fooocus")
    return None


def _read(
    field: Field, value: dict[str, Any], keyed: Keyed, software: str, carrier: Carrier
) -> Reading:
    version = as_text(keyed.get("version")) or carrier.text("fooocus_version")
    generator, _, number = (software or version or "Fooocus").partition(" ")
    if not generator.isalpha():
        generator, number = "Fooocus", version or ""
    reading = read_keyed(keyed, str(field), generator, number.lstrip("v") or None)
    if real := text_of(keyed.get("realprompt")):  # Fooocus-MRE: ``prompt`` is the styled text
        negative = text_of(keyed.get("realnegativeprompt"))
        reading = replace(reading, prompt=real, negative_prompt=negative)
    prompts = [
        *reading.prompts,
        *_extra(keyed.get("fullprompt"), "encoder", "full_prompt"),
        *_extra(keyed.get("fullnegativeprompt"), "encoder negative", "full_negative_prompt"),
        *_extra(keyed.get("promptexpansion", "fooocusv2expansion"), "expansion", "expansion"),
    ]
    return replace(reading, prompts=tuple(prompts), settings=_with_loras(reading.settings, value))


def _extra(value: object, role: str, source: str) -> list[Prompt]:
    texts = value if isinstance(value, list) else [value]
    return [Prompt(text, role, source) for text in texts if isinstance(text, str) and text.strip()]


def _with_loras(settings: Settings, value: dict[str, Any]) -> Settings:
    """Add LoRAs given as ``lora_combined_1: name : weight``, the form of Fooocus' own log."""
    combined = [
        [name.strip(), weight.strip()]
        for key, item in value.items()
        if key.startswith(("lora_combined_", "LoRA ")) and isinstance(item, str)
        for name, _, weight in [item.rpartition(" : ")]
        if name
    ]
    return replace(settings, loras=(*settings.loras, *loras_of(combined)))
