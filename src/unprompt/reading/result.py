"""What the exact route answers: the prompt, the settings and where in the file they stood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Field:
    """One piece of text that an image file carries.

    Attributes:
        place: the container's name for it: ``PNG tEXt``, ``EXIF``, ``JPEG COM``, ``XMP``,
            ``stealth alpha``, ``sidecar``...
        name: its key there: ``parameters``, ``UserComment``, ``dc:description``...
        text: the decoded text.
        whole: False where the file ends inside it.
    """

    place: str
    name: str
    text: str
    whole: bool = True

    def __str__(self) -> str:
        return f"{self.place} {self.name}".strip()


@dataclass(frozen=True)
class Lora:
    """A low-rank adaptation that was applied, and with which weight where the file states it."""

    name: str
    weight: float | None = None


@dataclass(frozen=True)
class Prompt:
    """One of the prompts of an image.

    Attributes:
        text: as the generator got it.
        role: ``positive`` or ``negative``; ``encoder`` for a text that reaches only some
            encoders; ``character``, ``style``, ``refiner``, ``hires``, ``detailer``, ``original``
            (before the generator rewrote it)...
        source: the key or the graph node that held it.
    """

    text: str
    role: str = "positive"
    source: str | None = None


@dataclass(frozen=True)
class Settings:
    """How the image was made; None where the file does not say.

    ``guidance`` is the classifier-free guidance scale, or the distilled guidance of models that
    know only that (Flux). ``width`` and ``height`` are in pixels, as the generator states them.
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
        """Width and height in pixels, where both are stated."""
        if self.width is None or self.height is None:
            return None
        return self.width, self.height


@dataclass(frozen=True)
class Reading:
    """What one image file says about how it was made.

    Attributes:
        prompt: the main prompt; None where the file names its maker but no prompt.
        negative_prompt: what was to be avoided, None where nothing is stated.
        generator: the program, ``ComfyUI``, ``AUTOMATIC1111``...
        version: the program's version where it is stated.
        settings: model, seed, sampler and the like.
        prompts: every prompt found, with its role, main ones first.
        where: the fields that the answer was read from.
        declares_ai: True where the file itself says that it is AI-generated (C2PA, IPTC).
        problems: what was damaged, cut or beyond the limits, one line each.
        raw: every text that the file carries; those after the pixels of a PNG only where none
            before them held a prompt.
        exact: False where the prompt is a caption that stood beside the image.
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

    def to_dict(self, raw: bool = True) -> dict[str, Any]:
        """Plain dictionaries, lists, text and finite numbers, for `json.dumps`.

        Args:
            raw: also give every text of the file.
        """
        # Not `dataclasses.asdict`, whose deep copies take five times as long.
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
    """A copy with other values in some fields: `dataclasses.replace`, at a quarter of its cost."""
    copy: Item = object.__new__(type(item))
    object.__setattr__(copy, "__dict__", {**item.__dict__, **changes})
    return copy


def as_int(value: object) -> int | None:
    """The whole number that ``value`` states, None where it states none."""
    if isinstance(value, int):
        return value if not isinstance(value, bool) and abs(value) < 1 << 127 else None
    if isinstance(value, str):
        # Longer digit strings are no seed or size, and int() would take quadratic time on them.
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
    """The finite number that ``value`` states, None where it states none."""
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
    """``value`` where it is text that is not blank, else None."""
    return value if isinstance(value, str) and value.strip() else None


def clean(text: str) -> str:
    """``text`` as valid Unicode: paired surrogates joined, lone ones turned into U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def cleaned(value: Any) -> Any:
    """A copy in which every text is valid Unicode: JSON may state lone surrogates."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, tuple):
        return tuple(map(cleaned, value))
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return changed(value, **cleaned(value.__dict__))
    return value
