"""NovelAI: JSON in ``Comment`` beside ``Software: NovelAI``, in chunks, EXIF or pixels."""

from __future__ import annotations

from typing import Any

from unprompt.reading.image_texts import ImageTexts, parse_json
from unprompt.reading.key_values import KeyValues, prompts_of, settings_of, sides_of
from unprompt.reading.result import Prompt, Reading, as_text

PLACES = ("Comment", "UserComment")


def read(texts: ImageTexts) -> Reading | None:
    """The base prompt; the prompts of characters are in ``prompts``."""
    software = texts.text("Software") or ""
    source = texts.text("Source")
    description = texts.text("Description")
    found = texts.mapping("Comment")
    if found is None:
        for field, value in texts.objects('"Comment"', "UserComment"):
            inner = value.get("Comment")
            if isinstance(inner, str) and isinstance(inner := parse_json(inner), dict):
                found = field, inner
                software = str(value.get("Software") or software)
                source = as_text(value.get("Source")) or source
                description = as_text(value.get("Description")) or description
                break
    if not software.startswith("NovelAI") and not (found and "uc" in found[1]):
        return None
    if found is None:
        stated = () if description is None else (Prompt(description, "positive", "Description"),)
        return Reading(description, None, "NovelAI", prompts=stated, where=("Description",))
    field, value = found
    where = str(field)
    keyed = KeyValues(value)
    base, characters = _captions(value.get("v4_prompt"))
    base_negative, unwanted = _captions(value.get("v4_negative_prompt"))
    positive, negative = sides_of(keyed)
    positive = positive or base or description
    negative = base_negative if negative is None else negative
    prompts = prompts_of(positive, negative, where)
    prompts += [Prompt(text, "character", "v4_prompt") for text in characters]
    prompts += [Prompt(text, "character negative", "v4_negative_prompt") for text in unwanted]
    model = source or (software if software.startswith("NovelAI ") else None)
    settings = settings_of(keyed, model)
    return Reading(
        *(positive, negative, "NovelAI"), settings=settings, prompts=tuple(prompts), where=(where,)
    )


def _captions(value: Any) -> tuple[str | None, list[str]]:
    """Base caption and character captions of a prompt of the fourth model generation."""
    caption = value.get("caption") if isinstance(value, dict) else None
    if not isinstance(caption, dict):
        return None, []
    characters = caption.get("char_captions")
    texts = [
        text
        for item in (characters if isinstance(characters, list) else [])[:100]
        if isinstance(item, dict) and (text := as_text(item.get("char_caption")))
    ]
    return as_text(caption.get("base_caption")), texts
