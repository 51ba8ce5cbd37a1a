"""Files that declare that AI made them: C2PA, IPTC, China's AIGC label, Black Forest Labs."""

from __future__ import annotations

from collections.abc import Iterator

from unprompt.reading.image_texts import ImageTexts, parse_json
from unprompt.reading.result import Field, Reading

# https://cv.iptc.org/newscodes/digitalsourcetype
_AI = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicMedia")
_SOURCE_TYPES = (
    *("digitalSourceType", "Iptc4xmpExt:DigitalSourceType", "Iptc4xmpCore:DigitalSourceType"),
    *("DigitalSourceType", "Iptc4xmpExt:DigitalSourcefileType"),
)
_SYSTEMS = ("Iptc4xmpExt:AISystemUsed", "AISystemUsed")
_LABELS = ("AIGC", "TC260:AIGC")
PLACES = frozenset((*_SOURCE_TYPES, *_SYSTEMS, *_LABELS, "Software"))
JSON_PLACES = ("UserComment", "exif:UserComment", "ImageDescription", "Comment", "comment")
_MAKERS = (
    ("openai", "OpenAI"),
    ("gpt", "OpenAI"),
    ("dall", "OpenAI"),
    ("chatgpt", "OpenAI"),
    ("firefly", "Adobe Firefly"),
    ("adobe", "Adobe Firefly"),
    ("google", "Google"),
    ("microsoft", "Microsoft"),
    ("bing", "Microsoft"),
    ("midjourney", "Midjourney"),
    ("stability", "Stability AI"),
    ("black forest labs", "Black Forest Labs"),
)


def declares(texts: ImageTexts) -> bool:
    """Whether the file declares that AI made it."""
    return next(_declared(texts), None) is not None


def read(texts: ImageTexts) -> Reading | None:
    """The declared generator; manifests of cameras and editors give None."""
    declared = [*_declared(texts)]
    if not declared:
        return None
    # The agent is the model; the claim generator may be a service that uses it.
    agent = texts.text("softwareAgent")
    claim = texts.text("claim_generator", "xmp:CreatorTool", "photoshop:Credit", "Make", "Software")
    system = texts.text(*_SYSTEMS)
    return Reading(
        prompt=None,
        generator=system or _maker(claim) or _maker(agent) or agent or claim,
        version=texts.text("Iptc4xmpExt:AISystemVersionUsed", "AISystemVersionUsed") or agent,
        where=tuple(dict.fromkeys(str(field) for field in declared)),
        declares_ai=True,
    )


def _declared(texts: ImageTexts) -> Iterator[Field]:
    for field in texts.fields:
        if field.name in PLACES and _is_declaration(texts, field):
            yield field
    for field, value in texts.objects('"AIGC"', *JSON_PLACES):
        label = value.get("AIGC")
        if _is_generated(parse_json(label) if isinstance(label, str) else label):
            yield field


def _is_generated(label: object) -> bool:
    """GB 45438-2025: 1 is AI-generated; 2 and 3 are only the suspicion of a platform."""
    return isinstance(label, dict) and str(label.get("Label", label.get("label"))) == "1"


def _is_declaration(texts: ImageTexts, field: Field) -> bool:
    name = field.name
    if name in _SOURCE_TYPES:
        return field.text.rstrip("/").rpartition("/")[2] in _AI
    if name in _SYSTEMS:
        return True
    if name in _LABELS:
        return _is_generated(texts.json(field))
    return field.text.startswith("AI generated")


def _maker(name: str | None) -> str | None:
    lowered = (name or "").lower()
    return next((maker for mark, maker in _MAKERS if mark in lowered), None)
