"""Text and JSON files that stand beside an image under its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unprompt.reading.carrier import MAX_TEXT, Carrier
from unprompt.reading.containers.charset import decode
from unprompt.reading.infotext import has_settings
from unprompt.reading.registry import recognise
from unprompt.reading.result import Field, Prompt, Reading, as_text, changed

_SUFFIXES = (".json", ".txt", ".caption")
PREDICTED = "predicted"
"""Key of a JSON file beside an image that `unprompt predict` wrote: whether a model guessed its
prompt. Such a guess is no prompt of the image, neither there nor in the ``.txt`` beside it."""
_CAPTION_KEYS = ("caption", "prompt", "text", "tags")


def sidecars(path: Path) -> Iterator[Path]:
    """The files beside an image that may describe it: ``image.txt`` and ``image.png.txt``."""
    for suffix in _SUFFIXES:
        for candidate in (path.with_suffix(suffix), path.with_name(path.name + suffix)):
            if candidate != path and candidate.is_file():
                yield candidate


def read_sidecar(path: Path, captions: bool = False) -> Reading | None:
    """What the files beside an image say, where the image itself says nothing.

    Args:
        path: the image.
        captions: also take a plain text (kohya: ``.txt``, ``.caption``) or the caption in a JSON
            file (img2dataset) for an inexact prompt. Otherwise only what a generator wrote
            counts: text in A1111 form or JSON with settings. What a model predicted never does.
    """
    caption = guess = None
    for candidate in sidecars(path):
        try:
            with candidate.open("rb") as file:
                text = decode(file.read(MAX_TEXT + 1))
        except OSError:
            continue  # gone or closed to us: as if it were not there
        if len(text) > MAX_TEXT or not text.strip():
            continue
        field = Field("sidecar", candidate.name, text)
        carrier = Carrier([Field("sidecar", "parameters", text)])
        stated = carrier.json(carrier.fields[0])
        if isinstance(stated, dict) and stated.get(PREDICTED) is True:
            guess = one_line(as_text(stated.get("prompt")) or "")
            continue
        if guess is not None and one_line(text) == guess:
            continue
        if stated is not None or has_settings(text):
            reading = recognise(carrier)
            if reading is not None and reading.prompt is not None and not _is_caption(reading):
                return _at(reading, field)
        caption = caption or _caption(field, carrier)
    return caption if captions else None


def one_line(prompt: str) -> str:
    """A prompt as captions hold it: trainers take a file's first line."""
    return " ".join(prompt.split())


def _is_caption(reading: Reading) -> bool:
    settings = reading.settings
    stated = (settings.seed, settings.steps, settings.sampler, settings.model, settings.guidance)
    return all(value is None for value in stated) and reading.negative_prompt is None


def _caption(field: Field, carrier: Carrier) -> Reading | None:
    text: str | None = field.text.strip()
    for _, value in carrier.objects():
        text = next((found for key in _CAPTION_KEYS if (found := as_text(value.get(key)))), None)
    if not text or text.startswith(("{", "[")):
        return None
    prompts = (Prompt(text, "caption", field.name),)
    return Reading(text, prompts=prompts, where=(str(field),), raw=(field,), exact=False)


def _at(reading: Reading, field: Field) -> Reading:
    return changed(reading, where=(str(field),), raw=(field,))
