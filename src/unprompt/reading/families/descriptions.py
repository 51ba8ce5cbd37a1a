"""Generators that write the plain prompt into the description of the image or a field for it.

The IPTC properties of AI prompts (Photo Metadata Standard 2025.1), Black Forest Labs, MFLUX and
Mochi Diffusion.
"""

from __future__ import annotations

import re

from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.key_values import KeyValues, prompts_of, read_key_values, settings_of
from unprompt.reading.result import Field, Reading, Settings, changed

_IPTC = ("Iptc4xmpExt:AIPromptInformation", "AIPromptInformation")
_DESCRIPTIONS = ("dc:description", "ImageDescription", "Description", "Caption", "UserComment")
PLACES = (*_IPTC, *_DESCRIPTIONS)
_MOCHI = "Include in Image: "
_MOCHI_PAIR = re.compile(
    r"(?:^|[;\n] ?)(Include in Image|Exclude from Image|Model|Steps|Guidance Scale|Seed|Size|"
    r"Scheduler|ML Compute Unit|Generator|Upscaler|Date|Starting Image|Image Index): "
)


def read(texts: ImageTexts) -> Reading | None:
    """The prompt of the first of these forms that the file has."""
    if field := texts.find(*_IPTC):
        return _reading(
            field,
            texts.text("Iptc4xmpExt:AISystemUsed", "AISystemUsed"),
            texts.text("Iptc4xmpExt:AISystemVersionUsed", "AISystemVersionUsed"),
        )
    field = texts.find(*_DESCRIPTIONS)
    if field is None:
        return None
    for described in texts.named(*_DESCRIPTIONS):
        if described.whole and _MOCHI in described.text[:2000]:
            return _read_mochi(described)
    software = texts.text("Software", "xmp:CreatorTool") or ""
    flux = "flux" in software or "Black Forest Labs" in (texts.text("Make") or "")
    if software.startswith("AI generated") and flux:
        reading = _reading(field, "Black Forest Labs", None)
        return changed(reading, settings=Settings(model=texts.text("Model")))
    if software.upper().startswith("MFLUX"):
        reading = _reading(field, "MFLUX", software[5:].strip() or None)
        chunks = {f.name: f.text for f in texts.fields if f.place.startswith("PNG") and f.whole}
        chunks.pop("Software", None)
        return changed(reading, settings=settings_of(KeyValues(chunks)))
    return None


def _reading(field: Field, generator: str | None, version: str | None) -> Reading:
    where = str(field)
    prompts = tuple(prompts_of(field.text, None, where))
    return Reading(field.text, None, generator, version, prompts=prompts, where=(where,))


def _read_mochi(field: Field) -> Reading:
    """``Include in Image: ...; Exclude from Image: ...; Model: ...``."""
    parts = _MOCHI_PAIR.split(field.text)
    values = {key: value.strip() for key, value in zip(parts[1::2], parts[2::2], strict=False)}
    named = {
        "prompt": values.pop("Include in Image", ""),
        "negative_prompt": values.pop("Exclude from Image", None),
        **values,
    }
    name, _, version = named.pop("Generator", "").rpartition(" ")
    return read_key_values(named, str(field), name or "Mochi Diffusion", version or None)
