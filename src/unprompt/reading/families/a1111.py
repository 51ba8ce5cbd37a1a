"""AUTOMATIC1111's web UI and the many programs that write its form."""

from __future__ import annotations

from dataclasses import replace

from unprompt.reading.answer import Field, Prompt, Reading
from unprompt.reading.carrier import Carrier
from unprompt.reading.infotext import Infotext, has_settings, parse_infotext, settings_of

_PLACES = (
    "parameters",
    "Parameters",
    "UserComment",
    "exif:UserComment",
    "comment",
    "Comment",
    "Description",
    "ImageDescription",
    "dc:description",
    "XPComment",
    "prompt",
    "metadata",
)
_UNSTATED = ("", "unknown", "undefined")
"""What nodes for saving write where nothing was connected to them."""
_EXTRA_PROMPTS = {
    "Hires prompt": "hires",
    "Hires negative prompt": "hires negative",
    "Template": "template",
    "Negative Template": "template negative",
    "Refiner prompt": "refiner",
    "refiner prompt": "refiner",
    "refiner negative": "refiner negative",
    "ADetailer prompt": "detailer",
    "ADetailer negative prompt": "detailer negative",
}


def read(carrier: Carrier) -> Reading | None:
    """The first field that is in A1111 form; under ``parameters`` any text is taken for one."""
    for name in _PLACES:
        for field in carrier.fields:
            if field.name == name and (reading := _read_field(field)):
                return reading
    return None


def _read_field(field: Field) -> Reading | None:
    text = field.text
    if text.lstrip("\ufeff \t\r\n").startswith(("{", "[{")):
        return None
    formed = has_settings(text)
    if not formed and (field.name != "parameters" or not field.whole):
        # Without settings or a negative prompt nothing tells a prompt from any other comment,
        # and of a text that is cut nothing tells where its prompt would have ended.
        return None
    infotext = parse_infotext(text)
    reading = to_reading(infotext, str(field))
    if infotext.prompt.strip().lower() in _UNSTATED:
        return replace(reading, prompt=None, negative_prompt=None, prompts=())
    return reading


def to_reading(infotext: Infotext, where: str) -> Reading:
    """The answer that a text in A1111 form gives."""
    values = infotext.values
    generator, version = program(infotext)
    prompts = [Prompt(infotext.prompt, "positive", where)]
    if infotext.negative_prompt is not None:
        prompts.append(Prompt(infotext.negative_prompt, "negative", where))
    prompts += [
        Prompt(value, role, key)
        for key, role in _EXTRA_PROMPTS.items()
        if (value := values.get(key, "").strip())
    ]
    return Reading(
        prompt=infotext.prompt,
        negative_prompt=infotext.negative_prompt,
        generator=generator,
        version=version,
        settings=settings_of(infotext),
        prompts=tuple(prompts),
        where=(where,),
    )


def program(infotext: Infotext) -> tuple[str | None, str | None]:
    """Which program wrote a text in A1111 form, by the marks that each leaves, and its version."""
    values = infotext.values
    version = values.get("Version")
    app = values.get("App")
    if app:
        return app, version
    if version and version.startswith("unprompt "):
        return "unprompt", version.removeprefix("unprompt ")
    if "Civitai resources" in values or "Civitai metadata" in values:
        return "Civitai", version
    if version:
        return _by_version(version), version
    if values.get("Backend") in ("Diffusers", "Original"):
        return "SD.Next", version
    return "AUTOMATIC1111", None


def _by_version(version: str) -> str:
    lowered = version.lower()
    if lowered.startswith("comfyui"):
        return "ComfyUI"
    if "reforge" in lowered:
        return "reForge"
    if "fooocus" in lowered:
        return "Fooocus"
    if lowered.startswith(("f", "neo", "classic")) or "forge" in lowered:
        return "Forge"
    return "AUTOMATIC1111"
