"""Files that declare that AI generated them, without a prompt (C2PA, IPTC)."""

from __future__ import annotations

from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.result import Reading

# https://cv.iptc.org/newscodes/digitalsourcetype
_AI = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicMedia")
PLACES = ("digitalSourceType", "Iptc4xmpExt:DigitalSourceType")
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
)


def read(texts: ImageTexts) -> Reading | None:
    """The declared generator; manifests of cameras and editors give None."""
    declared = [
        field
        for field in texts.fields
        if field.name in PLACES and field.text.rstrip("/").rpartition("/")[2] in _AI
    ]
    if not declared:
        return None
    # The agent is the model; the claim generator may be a service that uses it.
    agent = texts.text("softwareAgent")
    claim = texts.text("claim_generator", "xmp:CreatorTool", "photoshop:Credit", "Software")
    return Reading(
        prompt=None,
        generator=_maker(claim) or _maker(agent) or agent or claim,
        version=agent,
        where=tuple(dict.fromkeys(str(field) for field in declared)),
        declares_ai=True,
    )


def _maker(name: str | None) -> str | None:
    lowered = (name or "").lower()
    return next((maker for mark, maker in _MAKERS if mark in lowered), None)
