"""Settings given as keys and values: one rule for the many spellings of the same few words."""

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
"""How the keys of each setting are spelled, squeezed; of several that are there the first wins."""

_MEANINGS = {
    spelling: (setting, place)
    for setting, spellings in _SPELLINGS.items()
    for place, spelling in enumerate(spellings)
}
_TELLING = frozenset(("seed", "loras", *NEGATIVE)).union(
    *(_SPELLINGS[setting] for setting in ("sampler", "steps", "guidance", "model_hash"))
)
"""Keys that nothing but the description of an image has beside a prompt."""

_SIZE = re.compile(r"(\d{1,6})\s*(?:[x×*]|,)\s*(\d{1,6})")
_MAX_TEXT = 2000


def squeeze(key: str) -> str:
    """A key in lower case without blanks, hyphens, underscores and dots."""
    key = key.lower().replace("_", "")
    return key if key.isalnum() else key.replace(" ", "").replace("-", "").replace(".", "")


def squeeze_all(keys: Iterable[str]) -> list[str]:
    """All keys squeezed, in one go where no key holds the character that parts them."""
    keys = [*keys]
    squeezed = squeeze("\0".join(keys)).split("\0")
    return squeezed if len(squeezed) == len(keys) else [squeeze(key) for key in keys]


class Keyed:
    """Look-up in a mapping by the squeezed form of its keys; remembers what was asked."""

    def __init__(self, values: Mapping[str, Any]):
        # From the last on, so that the first of those that are squeezed alike stays.
        self._items = {
            squeezed: (key, values[key])
            for key, squeezed in zip([*values][::-1], squeeze_all(values)[::-1], strict=True)
            if len(key) < 100
        }
        self._asked: list[tuple[str, ...]] = []

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def get(self, *keys: str) -> Any:
        """The first value of ``keys`` that is neither absent, None nor blank."""
        self._asked.append(keys)
        for key in keys:
            if key in self._items:
                value = self._items[key][1]
                if value is not None and value != "":
                    return value
        return None

    def has_any(self, keys: Iterable[str]) -> bool:
        """Whether one of ``keys`` is there, whatever its value."""
        return not self._items.keys().isdisjoint(keys)

    def settings(self) -> tuple[dict[str, Any], dict[str, str]]:
        """The values of the settings by their names in `Settings`, and what else is stated.

        The rest are plain values, as text, of keys that nobody asked for.
        """
        asked = frozenset[str]().union(*self._asked)
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
                key not in asked
                and not isinstance(value, (dict, list))
                and len(text := str(value)) <= _MAX_TEXT
            ):
                rest[name] = text
        return {setting: value for setting, (_, value) in found.items()}, rest


def is_description(keyed: Keyed) -> bool:
    """Whether a mapping describes an image: it has a prompt and at least one setting."""
    prompt = keyed.get(*PROMPT)
    if not isinstance(prompt, str | list):
        return False
    return keyed.has_any(_TELLING)


def text_of(value: object) -> str | None:
    """The text of a value: itself, or the lines of a list joined."""
    if isinstance(value, list):
        texts = [item for item in value if isinstance(item, str)]
        return "\n".join(texts) if texts else None
    return value if isinstance(value, str) else None


def sides_of(keyed: Keyed) -> tuple[str | None, str | None]:
    """The prompt and the negative prompt that a mapping states; a negative one may be blank."""
    positive, negative = text_of(keyed.get(*PROMPT)), text_of(keyed.get(*NEGATIVE))
    if negative is None and keyed.has_any(NEGATIVE):
        negative = ""
    return positive, negative


def prompts_of(positive: str | None, negative: str | None, where: str) -> list[Prompt]:
    """The two sides, where stated, with their roles."""
    prompts = []
    if positive is not None:
        prompts.append(Prompt(positive, "positive", where))
    if negative is not None:
        prompts.append(Prompt(negative, "negative", where))
    return prompts


def settings_of(keyed: Keyed, model: str | None = None) -> Settings:
    """The settings that a mapping states, whatever spelling its keys have.

    Args:
        keyed: the mapping.
        model: the model where no key states it.
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
        seed=seed if seed is None or seed >= 0 else None,  # -1 asks for a random one
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
    """A name, or the name inside an object that stands for a model."""
    if isinstance(value, dict):
        keys = ("model_name", "name", "modelFileName", "label", "model")
        return next((name for key in keys if (name := as_text(value.get(key)))), None)
    return as_text(value)


def loras_of(value: object) -> tuple[Lora, ...]:
    """LoRAs as generators list them: names, objects, or triples of name, weight and hash."""
    return tuple(_loras(value)) if value else ()


def _weighted(loras: tuple[Lora, ...], weights: object) -> tuple[Lora, ...]:
    """LoRAs with the weights that SwarmUI and Easy Diffusion list apart from them, in order."""
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
            keyed = Keyed(item)
            name = name_of(keyed.get("name", "modelname", "lora", "model", "file", "loraname"))
            if name:
                yield Lora(name, as_float(keyed.get("weight", "strength", "modelweight", "alpha")))


def read_keyed(
    values: Mapping[str, Any] | Keyed, where: str, generator: str | None, version: str | None = None
) -> Reading:
    """The answer that a mapping gives: its prompt, its negative prompt and its settings."""
    keyed = values if isinstance(values, Keyed) else Keyed(values)
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
