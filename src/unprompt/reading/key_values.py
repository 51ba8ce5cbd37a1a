"""Settings as keys and values: one table for the many spellings of each key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from unprompt.reading.result import Lora, Prompt, Reading, Settings, as_float, as_int, as_text

PROMPT = ("prompt", "positiveprompt", "promptpositive", "positive", "textprompt")
NEGATIVE = ("negativeprompt", "promptnegative", "negative", "uc", "undesiredcontent")

_SPELLINGS = {
    "model": (
        *("model", "modelname", "basemodel", "basemodelname", "usestablediffusionmodel"),
        *("checkpoint", "stablediffusionmodel", "modelid", "modelweights", "sdmodelname"),
        *("modelfilename", "ckpt"),
    ),
    "model_hash": ("modelhash", "basemodelhash", "sdmodelhash", "checkpointhash"),
    "seed": ("seed", "noiseseed", "allseeds"),
    "steps": (
        *("steps", "numinferencesteps", "numsteps", "samplingsteps", "inferencesteps", "stepcount"),
    ),
    "sampler": ("sampler", "samplername", "ksamplername", "samplingmethod", "sampleralgorithm"),
    "scheduler": ("scheduler", "schedule", "scheduletype", "noiseschedule", "schedulername"),
    "guidance": ("cfgscale", "guidancescale", "cfg", "scale", "guidance", "promptguidance"),
    "width": ("width", "w"),
    "height": ("height", "h"),
    "size": ("size", "resolution", "imagesize"),
    "denoise": ("denoisingstrength", "denoise", "denoisestrength", "promptstrength"),
    "clip_skip": ("clipskip",),
    "vae": ("vae", "vaename", "usevaemodel", "vaemodel", "sdvae"),
    "loras": ("loras", "lora", "uselorasmodel", "useloramodel"),
    "lora_weights": ("loraweights", "loraalpha"),
}
"""The squeezed spellings of the keys of each setting; the first that is present counts."""

_MEANINGS = {
    spelling: (setting, place)
    for setting, spellings in _SPELLINGS.items()
    for place, spelling in enumerate(spellings)
}
_TELLING = frozenset(("seed", "loras", *NEGATIVE)).union(
    *(_SPELLINGS[setting] for setting in ("sampler", "steps", "guidance", "model_hash"))
)
"""Keys which, beside a prompt, show that an object describes an image."""

_SIZE = re.compile(r"(\d{1,6})\s*(?:[x×*]|,)\s*(\d{1,6})")
_MAX_TEXT = 2000


def squeeze(key: str) -> str:
    """A key in lower case, without spaces, hyphens, underscores and dots."""
    key = key.lower().replace("_", "")
    return key if key.isalnum() else key.replace(" ", "").replace("-", "").replace(".", "")


def squeeze_all(keys: Iterable[str]) -> list[str]:
    """All keys squeezed; in one call if no key contains the separator."""
    keys = [*keys]
    squeezed = squeeze("\0".join(keys)).split("\0")
    return squeezed if len(squeezed) == len(keys) else [squeeze(key) for key in keys]


class KeyValues:
    """Look-up in a mapping by squeezed keys; remembers which keys were used."""

    def __init__(self, values: Mapping[str, Any]):
        # In reverse order: of keys with the same squeezed form the first one stays.
        self._items = {
            squeezed: (key, values[key])
            for key, squeezed in zip([*values][::-1], squeeze_all(values)[::-1], strict=True)
            if len(key) < 100
        }
        self._used: list[tuple[str, ...]] = []

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def get(self, *keys: str) -> Any:
        """The first value of ``keys`` that is present and neither None nor empty."""
        self._used.append(keys)
        for key in keys:
            if key in self._items:
                value = self._items[key][1]
                if value is not None and value != "":
                    return value
        return None

    def has_any(self, keys: Iterable[str]) -> bool:
        """Whether one of ``keys`` is present, whatever its value."""
        return not self._items.keys().isdisjoint(keys)

    def settings(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of known settings by their names in `Settings`, and all others.

        The others are plain values, as text, of keys that were not used by `get`.
        """
        used = frozenset[str]().union(*self._used)
        found: dict[str, tuple[int, Any]] = {}
        rest: dict[str, str] = {}
        for key, (name, value) in reversed(self._items.items()):
            if value is None or value == "":
                continue
            if (meaning := _MEANINGS.get(key)) is not None:
                setting, place = meaning
                if setting not in found or place < found[setting][0]:
                    found[setting] = place, value
            elif (
                key not in used
                and not isinstance(value, (dict, list))
                and len(text := str(value)) <= _MAX_TEXT
            ):
                rest[name] = text
        return {setting: value for setting, (_, value) in found.items()}, rest


def is_description(keyed: KeyValues) -> bool:
    """Whether a mapping describes an image: it has a prompt and a setting."""
    prompt = keyed.get(*PROMPT)
    if not isinstance(prompt, str | list):
        return False
    return keyed.has_any(_TELLING)


def text_of(value: object) -> str | None:
    """The value if it is text; the joined lines if it is a list of texts."""
    if isinstance(value, list):
        texts = [item for item in value if isinstance(item, str)]
        return "\n".join(texts) if texts else None
    return value if isinstance(value, str) else None


def sides_of(keyed: KeyValues) -> tuple[str | None, str | None]:
    """The prompt and the negative prompt of a mapping; the negative one may be empty."""
    positive, negative = text_of(keyed.get(*PROMPT)), text_of(keyed.get(*NEGATIVE))
    if negative is None and keyed.has_any(NEGATIVE):
        negative = ""
    return positive, negative


def prompts_of(positive: str | None, negative: str | None, where: str) -> list[Prompt]:
    """Prompt and negative prompt, if stated, with their roles."""
    prompts = []
    if positive is not None:
        prompts.append(Prompt(positive, "positive", where))
    if negative is not None:
        prompts.append(Prompt(negative, "negative", where))
    return prompts


def settings_of(keyed: KeyValues, model: str | None = None) -> Settings:
    """The settings of a mapping, in any known spelling of its keys.

    Args:
        keyed: the mapping.
        model: the model to use if no key states it.
    """
    stated, rest = keyed.settings()
    get = stated.get
    width, height = as_int(get("width")), as_int(get("height"))
    if width is None and "size" in stated and (size := _SIZE.search(str(stated["size"])[:100])):
        width, height = int(size[1]), int(size[2])
    seed = as_int(get("seed"))
    return Settings(
        model=name_of(get("model")) or model,
        model_hash=as_text(get("model_hash")),
        seed=seed if seed is None or seed >= 0 else None,  # -1 means: random
        steps=as_int(get("steps")),
        sampler=name_of(get("sampler")),
        scheduler=name_of(get("scheduler")),
        guidance=as_float(get("guidance")),
        width=width,
        height=height,
        denoise=as_float(get("denoise")),
        clip_skip=as_int(get("clip_skip")),
        vae=name_of(get("vae")),
        loras=_weighted(loras_of(get("loras")), get("lora_weights")),
        other=rest,
    )


def name_of(value: object) -> str | None:
    """A name, or the name inside an object that describes a model."""
    if isinstance(value, dict):
        keys = ("model_name", "name", "modelFileName", "label", "model")
        return next((name for key in keys if (name := as_text(value.get(key)))), None)
    return as_text(value)


def loras_of(value: object) -> tuple[Lora, ...]:
    """LoRAs in the forms of the generators: names, objects, or lists of name, weight and hash."""
    return tuple(_loras(value)) if value else ()


def _weighted(loras: tuple[Lora, ...], weights: object) -> tuple[Lora, ...]:
    """LoRAs with their weights, which SwarmUI and Easy Diffusion list separately, in order."""
    listed = weights if isinstance(weights, list) else [weights]
    if not loras or weights is None or len(listed) != len(loras):
        return loras
    pairs = zip(loras, listed, strict=True)
    return tuple(Lora(lora.name, as_float(weight)) for lora, weight in pairs)


def _loras(value: object) -> Iterator[Lora]:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        value = [{"name": name, "weight": weight} for name, weight in value.items()]
    if not isinstance(value, list):
        return
    for item in value[:500]:
        if isinstance(item, str) and item.strip():
            yield Lora(item)
        elif isinstance(item, list) and item and isinstance(item[0], str):
            yield Lora(item[0], as_float(item[1]) if len(item) > 1 else None)
        elif isinstance(item, dict):
            keyed = KeyValues(item)
            name = name_of(keyed.get("name", "modelname", "lora", "model", "file", "loraname"))
            if name:
                yield Lora(name, as_float(keyed.get("weight", "strength", "modelweight", "alpha")))


def read_key_values(
    values: Mapping[str, Any] | KeyValues,
    where: str,
    generator: str | None,
    version: str | None = None,
) -> Reading:
    """The reading of a mapping: prompt, negative prompt and settings."""
    keyed = values if isinstance(values, KeyValues) else KeyValues(values)
    positive, negative = sides_of(keyed)
    return Reading(
        prompt=positive,
        negative_prompt=negative,
        generator=generator,
        version=version,
        settings=settings_of(keyed),
        prompts=tuple(prompts_of(positive, negative, where)),
        where=(where,),
    )
