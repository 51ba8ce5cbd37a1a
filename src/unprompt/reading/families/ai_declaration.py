"""Files that declare that AI made them: C2PA, IPTC, China's AIGC label, Black Forest Labs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.result import Field, Reading

# https://cv.iptc.org/newscodes/digitalsourcetype
_AI = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicMedia")
_SOURCE_TYPES = (
    *("digitalSourceType", "Iptc4xmpExt:DigitalSourceType", "Iptc4xmpCore:DigitalSourceType"),
    *("DigitalSourceType", "Iptc4xmpExt:DigitalSourcefileType"),
)
_SYSTEMS = ("Iptc4xmpExt:AISystemUsed", "AISystemUsed")
_OF_AI = (*_SYSTEMS, "Iptc4xmpExt:AIPromptInformation", "AIPromptInformation")
_LABELS = ("AIGC", "aigc", "TC260:AIGC", "TC260:Label")
_DESCRIPTIONS = (
    *("UserComment", "exif:UserComment", "ImageDescription", "Description", "description"),
    *("Comment", "comment", "XPComment", "dc:description"),
)
PLACES = frozenset((*_SOURCE_TYPES, *_OF_AI, *_LABELS, *_DESCRIPTIONS, "Software"))
_LABEL = re.compile(r"AIGC\W{0,12}\{[^{}]{0,1000}?Label\W{1,12}1\b", re.IGNORECASE)
"""GB 45438-2025: 1 is AI-generated; 2 and 3 are only the suspicion of a platform."""
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
    return (field for field in texts.fields if field.name in PLACES and _is_declaration(field))


def _is_declaration(field: Field) -> bool:
    name, text = field.name, field.text
    if name in _SOURCE_TYPES:
        return text.strip().rstrip("/").rpartition("/")[2] in _AI
    if name in _OF_AI:
        return bool(text.strip())
    if name == "TC260:Label":
        return text.strip() == "1"
    if name in _LABELS:
        return _LABEL.search(f"AIGC{text[:2000]}") is not None
    if name == "Software":
        return text.startswith("AI generated")
    return "AIGC" in text[:2000] and _LABEL.search(text[:2000]) is not None


def _maker(name: str | None) -> str | None:
    lowered = (name or "").lower()
    return next((maker for mark, maker in _MAKERS if mark in lowered), None)
