"""AUTOMATIC1111's web UI and the many programs that write the same form."""

from __future__ import annotations

import re

from unprompt.reading.image_texts import ImageTexts, parse_json
from unprompt.reading.infotext import Infotext, parse_infotext, settings_of
from unprompt.reading.result import (
    Field,
    Lora,
    Prompt,
    Reading,
    Settings,
    as_float,
    as_text,
    changed,
)

PLACES = (
    "parameters",
    "Parameters",
    "UserComment",
    "exif:UserComment",
    "comment",
    "Comment",
    "Description",
    "description",
    "ImageDescription",
    "dc:description",
    "XPComment",
    "XPTitle",
    "XPSubject",
    "XPKeywords",
    "DocumentName",
    "Title",
    "title",
    "tiff:ImageDescription",
    "dc:title",
    "dc:subject",
    "Caption",
    "SpecialInstructions",
    "photoshop:Instructions",
    "Artist",
    "Copyright",
    "prompt",
    "metadata",
)
_OF_CAMERAS = frozenset(("Model", "Size", "Location", "Date", "Make", "Camera", "Lens"))
"""Keys that descriptions of photographs contain too."""
_PLOTTERS = re.compile(
    r"matplotlib|plotly|imagej|fiji|gnuplot|matlab|mathematica|seaborn|bokeh|origin|paraview|"
    r"\bR\b|octave|psychopy|labview|blender|povray|graphviz",
    re.IGNORECASE,
)
_SETTING = re.compile(r"[\w.\-/]{1,40} ?(?:=|:(?!\d)) ?[^,;\s]{1,40}[,;\s]*")
"""One setting in the form of other programs: ``lr=0.001``, ``epochs: 10``."""
_OPTIONS = re.compile(r"(?:^|\s)--?[A-Za-z][\w-]*[ =][^\s-].*(?:^|\s)--?[A-Za-z]", re.DOTALL)
_DICT = re.compile(r"\{\s*['\"]?\w+['\"]?\s*:")
_UNSTATED = ("unknown", "undefined")
"""What ComfyUI nodes that save write if nothing was connected to them."""
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


def read(texts: ImageTexts) -> Reading | None:
    """The first field in A1111 form; under ``parameters`` also another text, as a guess."""
    for field in texts.named(*PLACES):
        if reading := _read_field(texts, field):
            return reading
    return None


def _read_field(texts: ImageTexts, field: Field) -> Reading | None:
    text = field.text
    if texts.json(field) is not None or text.startswith("Include in Image: "):  # Mochi Diffusion
        return None
    infotext = parse_infotext(text)
    certain = infotext.certain
    if certain and field.name != "parameters" and infotext.negative_prompt is None:
        certain = not _OF_CAMERAS.issuperset(infotext.values)
    if not certain:
        # Without settings or a negative prompt, a prompt looks like any other comment. In a text
        # that is cut off the prompt may be incomplete. Text that looks like JSON is damaged
        # JSON, but a prompt may begin with a brace: {cat|dog}.
        damaged = text.lstrip("\ufeff \t\r\n").startswith(('{"', "[{"))
        if field.name != "parameters" or not field.whole or damaged:
            return None
        if _is_of_other_software(text, texts.text("Software")):
            return None
    reading = changed(to_reading(infotext, str(field)), certain=certain)
    # A prompt that unprompt wrote may be this word.
    if reading.generator != "unprompt" and infotext.prompt.strip().lower() in _UNSTATED:
        return changed(reading, prompt=None, negative_prompt=None, prompts=())
    return reading


def _is_of_other_software(text: str, software: str | None) -> bool:
    """Whether a plain text under ``parameters`` states the parameters of a program, no prompt."""
    if software and _PLOTTERS.search(software):
        return True
    start = text[:4000].strip()
    if _OPTIONS.search(start) or start.startswith(("{", "(", "<?xml", "Namespace(")):
        return not start.startswith("{") or _DICT.match(start) is not None
    pairs = sum(len(match[0]) for match in _SETTING.finditer(start))
    words = start.split()
    numbers = sum(any(map(str.isdigit, word)) for word in words)
    return pairs * 2 > len(start) or numbers * 3 > len(words)


def to_reading(infotext: Infotext, where: str) -> Reading:
    """The reading of a text in A1111 form."""
    values = infotext.values
    generator, version = program(infotext)
    prompts = [Prompt(infotext.prompt, "positive", where)]
    if infotext.negative_prompt is not None:
        prompts.append(Prompt(infotext.negative_prompt, "negative", where))
    if not _EXTRA_PROMPTS.keys().isdisjoint(values):
        prompts += [
            Prompt(values[key], role, key)
            for key, role in _EXTRA_PROMPTS.items()
            if key in values and values[key].strip()
        ]
    return Reading(
        prompt=infotext.prompt,
        negative_prompt=infotext.negative_prompt,
        generator=generator,
        version=version,
        settings=_with_resources(settings_of(infotext), values.get("Civitai resources")),
        prompts=tuple(prompts),
        where=(where,),
    )


def _with_resources(settings: Settings, listed: str | None) -> Settings:
    """Add the model and the LoRAs that Civitai lists as JSON."""
    resources = parse_json(listed) if listed else None
    if not isinstance(resources, list):
        return settings
    model, loras = settings.model, list(settings.loras)
    for item in resources[:200]:
        name = as_text(item.get("modelName")) if isinstance(item, dict) else None
        if name and item.get("type") == "checkpoint":
            model = model or name
        elif name and item.get("type") in ("lora", "locon", "lycoris", "dora"):
            loras.append(Lora(name, as_float(item.get("weight"))))
    return changed(settings, model=model, loras=tuple(loras))


def program(infotext: Infotext) -> tuple[str | None, str | None]:
    """The program that wrote a text in A1111 form, and its version, by keys that only it writes."""
    values = infotext.values
    version = values.get("Version")
    app = values.get("App")
    if app:
        return app, version
    if version and version.startswith("unprompt "):
        return "unprompt", version.removeprefix("unprompt ")
    if "Civitai resources" in values or "Civitai metadata" in values:
        return "Civitai", version
    if "Backend" in values or "Pipeline" in values:  # old SD.Next, which did not write its name
        return "SD.Next", version
    if version:
        return _by_version(version), version
    return "AUTOMATIC1111", None


def _by_version(version: str) -> str:
    lowered = version.lower()
    if lowered.startswith("stable-diffusion.cpp"):
        return "stable-diffusion.cpp"
    if lowered.startswith("comfyui"):
        return "ComfyUI"
    if "reforge" in lowered or lowered.startswith("f1."):
        return "reForge"
    if "fooocus" in lowered:
        return "Fooocus"
    if lowered.startswith(("f", "neo", "classic")) or "forge" in lowered:
        return "Forge"
    return "AUTOMATIC1111"
