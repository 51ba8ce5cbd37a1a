"""Read the sidecar of an image: a text or JSON file beside it with the same name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from unprompt.reading.containers.charset import decode
from unprompt.reading.containers.xmp import read_xmp
from unprompt.reading.family_registry import ask_families
from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.infotext import has_settings
from unprompt.reading.limits import MAX_TEXT, Limits
from unprompt.reading.result import Field, Prompt, Reading, as_text, changed, clean

_SUFFIXES = (".json", ".txt", ".caption", ".xmp")
PREDICTED = "predicted"
"""Key in the JSON sidecars that `unprompt predict` writes: True if a model predicted the prompt.
Such a prompt, also in the ``.txt`` beside it, is never read as the true prompt of the image."""
_EXIFTOOL_NAMES = frozenset(("Parameters", "Prompt", "Workflow", "Generation_data"))
_CAPTION_KEYS = ("caption", "prompt", "text", "tags")


def sidecars(path: Path) -> Iterator[Path]:
    """Yield the files beside an image that may describe it: ``image.txt``, ``image.png.txt``..."""
    for suffix in _SUFFIXES:
        for candidate in (path.with_suffix(suffix), path.with_name(path.name + suffix)):
            try:
                is_file = candidate != path and candidate.is_file()
            except OSError:  # the name is too long, or the disk fails
                continue
            if is_file:
                yield candidate


def read_sidecar(path: Path, limits: Limits, captions: bool = False) -> Reading | None:
    """Read the files beside an image.

    Args:
        path: the image.
        limits: notes files that are too large or cannot be read.
        captions: also accept plain text (kohya: ``.txt``, ``.caption``) or the caption in a JSON
            file (img2dataset), as a prompt that is not exact. Without it only the text of a
            generator counts: A1111 form or JSON with settings. A prompt that a model predicted
            never counts.
    """
    caption = guess = None
    for candidate in sidecars(path):
        name = clean(candidate.name)
        try:
            with candidate.open("rb") as file:
                text = decode(file.read(MAX_TEXT + 1))
        except OSError as error:
            limits.note(f"{name}: cannot be read ({error.strerror or error})")
            continue
        if len(text) > MAX_TEXT:
            limits.note(f"{name}: more than {MAX_TEXT >> 20} MiB of text; skipped")
            continue
        if not text.strip():
            continue
        field = Field("sidecar", name, text)
        if candidate.suffix == ".xmp":
            packet = ImageTexts(read_xmp(text.encode(), limits, "sidecar"))
            reading = ask_families(packet)
            if reading is not None and reading.prompt is not None:
                return _at(reading, field)
            continue
        texts = ImageTexts([Field("sidecar", "parameters", text)])
        stated = texts.json(texts.fields[0])
        if isinstance(stated, list) and stated and isinstance(stated[0], dict):
            listed = [item for item in stated[:1000] if isinstance(item, dict)]
            stated = next((item for item in listed if _is_about(item, path)), listed[0])
            texts = ImageTexts([Field("sidecar", "parameters", json.dumps(stated))])
        if isinstance(stated, dict) and "SourceFile" in stated:
            texts = ImageTexts(_of_exiftool(stated))
        if isinstance(stated, dict) and stated.get(PREDICTED) is True:
            guess = one_line(as_text(stated.get("prompt")) or "")
            continue
        if guess is not None and one_line(text) == guess:
            continue
        if stated is not None or has_settings(text):
            reading = ask_families(texts)
            if reading is not None and reading.prompt is not None and not _is_caption(reading):
                return _at(reading, field)
        caption = caption or _caption(field, texts)
    return caption if captions else None


def _is_about(tags: Mapping[str, Any], image: Path) -> bool:
    return Path(str(tags.get("SourceFile"))).name == image.name


def _of_exiftool(tags: Mapping[str, Any]) -> Iterator[Field]:
    """The fields of the tags that ``exiftool -j`` lists, under the names they have in files."""
    for key, value in islice(tags.items(), 2000):
        group, _, name = key.rpartition(":")
        if isinstance(value, dict) and not group and name not in _EXIFTOOL_NAMES:  # option -g
            yield from _of_exiftool({f"{key}:{inner}": item for inner, item in value.items()})
            continue
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = "\n".join(value)  # of a tag that the file has more than once
        elif isinstance(value, (dict, list)):
            value = json.dumps(value)
        if name in _EXIFTOOL_NAMES and not group.startswith("XMP"):
            name = name.lower()
        elif name in ("Description", "Title", "Subject") and group in ("", "XMP", "XMP-dc"):
            name = f"dc:{name.lower()}"
        if isinstance(value, str):
            yield Field("PNG sidecar" if name.islower() else "sidecar", name, value)


def one_line(prompt: str) -> str:
    """A prompt on one line, since trainers read only the first line of a caption file."""
    return " ".join(prompt.split())


def _is_caption(reading: Reading) -> bool:
    settings = reading.settings
    stated = (settings.seed, settings.steps, settings.sampler, settings.model, settings.guidance)
    return all(value is None for value in stated) and reading.negative_prompt is None


def _caption(field: Field, texts: ImageTexts) -> Reading | None:
    text: str | None = field.text.strip()
    for _, value in texts.objects():
        text = next((found for key in _CAPTION_KEYS if (found := as_text(value.get(key)))), None)
    if not text or text.startswith(("{", "[")):
        return None
    prompts = (Prompt(text, "caption", field.name),)
    return Reading(text, prompts=prompts, where=(str(field),), raw=(field,), exact=False)


def _at(reading: Reading, field: Field) -> Reading:
    return changed(reading, where=(str(field),), raw=(field,))
