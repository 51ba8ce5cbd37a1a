"""`Reading`, the answer of the exact route: the prompt, the settings and where they were found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Field:
    """One text in an image file.

    Attributes:
        place: the part of the file: ``PNG tEXt``, ``EXIF``, ``JPEG COM``, ``XMP``,
            ``stealth alpha``, ``sidecar``...
        name: its key in that part: ``parameters``, ``UserComment``, ``dc:description``...
        text: the decoded text.
        whole: False if the file ends inside this text.
    """

    place: str
    name: str
    text: str
    whole: bool = True

    def __str__(self) -> str:
        return f"{self.place} {self.name}".strip()


@dataclass(frozen=True)
class Lora:
    """A LoRA that was applied, with its weight if the file states it."""

    name: str
    weight: float | None = None


@dataclass(frozen=True)
class Prompt:
    """One of the prompts of an image.

    Attributes:
        text: as the generator received it.
        role: ``positive`` or ``negative``; ``encoder`` for a text that reaches only some
            encoders; ``character``, ``style``, ``refiner``, ``hires``, ``detailer``, ``original``
            (before the generator rewrote it)...
        source: the key or graph node that holds it.
    """

    text: str
    role: str = "positive"
    source: str | None = None


@dataclass(frozen=True)
class Settings:
    """How the image was made; None for every value that the file does not state.

    ``guidance`` is the classifier-free guidance scale, or the distilled guidance of models such as
    Flux. ``width`` and ``height`` are in pixels, as the generator states them.
    """

    model: str | None = None
    model_hash: str | None = None
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None
    scheduler: str | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    denoise: float | None = None
    clip_skip: int | None = None
    vae: str | None = None
    loras: tuple[Lora, ...] = ()
    other: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height in pixels if both are stated."""
        if self.width is None or self.height is None:
            return None
        return self.width, self.height


@dataclass(frozen=True)
class Reading:
    """What one image file states about how it was made.

    Attributes:
        prompt: the main prompt; None if the file names its generator but no prompt.
        negative_prompt: None if the file states none.
        generator: the program, ``ComfyUI``, ``AUTOMATIC1111``...
        version: the version of the program, if stated.
        settings: model, seed, sampler and others.
        prompts: every prompt found with its role, the main ones first.
        where: the fields from which the answer was read.
        declares_ai: True if the file itself declares that AI generated it (C2PA, IPTC).
        problems: one line for each part that was damaged, cut off or larger than the limits.
        raw: every text in the file. Texts after the pixels of a PNG are read only if the texts
            before them hold no prompt.
        exact: False if the prompt is a caption from a file beside the image.
        certain: False if the prompt is a best guess: the file does not state which of its texts
            was used, or a part of the text was computed where the file does not show it.
    """

    prompt: str | None
    negative_prompt: str | None = None
    generator: str | None = None
    version: str | None = None
    settings: Settings = field(default_factory=Settings)
    prompts: tuple[Prompt, ...] = ()
    where: tuple[str, ...] = ()
    declares_ai: bool = False
    problems: tuple[str, ...] = ()
    raw: tuple[Field, ...] = ()
    exact: bool = True
    certain: bool = True

    def to_dict(self, raw: bool = True) -> dict[str, Any]:
        """Plain dictionaries, lists, text and finite numbers, for `json.dumps`.

        Args:
            raw: also include every text of the file.
        """
        # `dataclasses.asdict` makes deep copies and takes five times as long.
        plain = dict(self.__dict__)
        plain["settings"] = settings = dict(self.settings.__dict__)
        settings["loras"] = [dict(lora.__dict__) for lora in self.settings.loras]
        settings["other"] = dict(self.settings.other)
        plain["prompts"] = [dict(prompt.__dict__) for prompt in self.prompts]
        plain["where"], plain["problems"] = list(self.where), list(self.problems)
        if raw:
            plain["raw"] = [dict(item.__dict__) for item in self.raw]
        else:
            del plain["raw"]
        return plain


def changed(item: Item, **changes: Any) -> Item:
    """A copy with some fields changed; four times as fast as `dataclasses.replace`."""
    copy: Item = object.__new__(type(item))
    object.__setattr__(copy, "__dict__", {**item.__dict__, **changes})
    return copy


def as_int(value: object) -> int | None:
    """``value`` as a whole number, or None if it is none."""
    if isinstance(value, int):
        return value if not isinstance(value, bool) and abs(value) < 1 << 127 else None
    if isinstance(value, str):
        # No seed or size is longer, and int() takes quadratic time on long strings.
        value = value.strip()
        if not value or len(value) > 40:
            return None
        try:
            return int(value)
        except ValueError:
            return as_int(as_float(value))
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return None


def as_float(value: object) -> float | None:
    """``value`` as a finite number, or None if it is none."""
    if not isinstance(value, (float, int, str)) or isinstance(value, bool):
        return None
    if isinstance(value, str) and len(value) > 400:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_text(value: object) -> str | None:
    """``value`` if it is text that is not blank, else None."""
    return value if isinstance(value, str) and value.strip() else None


def clean(text: str) -> str:
    """``text`` as valid Unicode: surrogate pairs are joined, lone surrogates become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def cleaned(value: Any) -> Any:
    """A copy in which every text is valid Unicode; JSON escapes can state lone surrogates."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, tuple):
        return tuple(map(cleaned, value))
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return changed(value, **cleaned(value.__dict__))
    return value
