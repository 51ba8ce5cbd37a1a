"""Traits of inputs by their names: positive or negative, conditioning, text, image, option...

Every input name of every graph is examined, so traits are bits of one number, found with a few
look-ups instead of one regular expression each.
"""

from __future__ import annotations

import re

POSITIVE = 1 << 0
"""It takes what the image should show."""
NEGATIVE = 1 << 1
"""It takes what the image should not show."""
CONDITIONING = 1 << 2
"""It takes encoded text."""
BUNDLE = 1 << 3
"""It takes several things at once, which may include conditioning."""
TEXT = 1 << 4
"""It holds text that reaches an encoder."""
OPTION = 1 << 5
"""It holds a setting, not prompt text."""
ELSEWHERE = 1 << 6
"""It leads to models or images, not to text."""
PICTURE = 1 << 7
"""It takes the image or latent that the node changes."""
SELECTOR = 1 << 8
"""It selects one of the other inputs, by number or by true/false."""
MODEL = 1 << 9
"""It leads to the model."""
LATENT = 1 << 10
"""It leads to the latent that states the size."""
SAMPLING = 1 << 11
"""It leads to the settings of the sampler: noise, sigmas, guider."""
GUIDANCE = 1 << 12
"""It leads to the node that states distilled guidance."""

PIPE = 1 << 13
"""It takes a pipe: a bundle that samplers pass on."""

TOWARDS_TEXT = POSITIVE | NEGATIVE | CONDITIONING
SIDES = {"positive": POSITIVE, "negative": NEGATIVE}

_LETTERS = re.compile("[a-z]+")
_POSITIVE_WORDS = frozenset(("positive", "pos"))
_NEGATIVE_WORDS = frozenset(("negative", "neg"))
_TEXT_WORDS = frozenset(
    ("text", "prompt", "string", "str", "caption", "wildcard", "tag", "tags", "description")
).union(("value", "content", "bert", "populated", "words", "lyrics"))
_TEXT_MODELS = re.compile(r"(?<![a-z])(?:clip_[lgh](?![a-z])|t5|llama|mt5xl|gemma|qwen|byt5)")
_OPTIONS = re.compile(
    r"mode|type|template|delim|sep[ae]rator|method|normali|interpretation|_name$|^name$|path|file"
    r"|language|action|device|sampler|scheduler|seed|format|find|replace|system|control"
    r"|select to|task|(?:^|_)style$|weight|title|color"
)
_AWAY = (
    *("model", "clip", "vae", "unet", "noise", "sigmas", "sampler", "seed", "width", "height"),
    *("steps", "cfg", "denoise"),
)
_PICTURES = re.compile(
    r"image|pixels|latent|samples|mask|control_?net|clip_vision|style_model|upscale|lora|gligen"
)
_PICTURE = re.compile(r"latent|samples|^images?\d*$|pixels|pipe")
_SELECTORS = frozenset(
    ("select", "input", "index", "switch", "choice", "selected_index", "boolean", "condition")
)


def traits_of(name: str) -> int:
    """The traits of an input name, as a sum of bits."""
    name = name.lower()
    if "." in name:  # model.prompt: of a nested option
        name = name.rpartition(".")[2] or name
    words = set(_LETTERS.findall(name))
    uncond = "uncond" in name and any(word.startswith("uncond") for word in words)
    traits = 0
    if not words.isdisjoint(_POSITIVE_WORDS) or name.startswith("positive"):
        traits |= POSITIVE
    if uncond or not words.isdisjoint(_NEGATIVE_WORDS) or name.startswith("negative"):
        traits |= NEGATIVE
    if "cond" in words or "conditioning" in name or "guider" in name or "embeds" in name:
        traits |= CONDITIONING
    if "pipe" in name:
        traits |= PIPE | BUNDLE
    elif "ctx" in name or "context" in name or "bundle" in name:
        traits |= BUNDLE
    if _OPTIONS.search(name):
        traits |= OPTION
    elif (
        not words.isdisjoint(_TEXT_WORDS)
        or name.endswith(("text", "prompt", "string"))
        or _TEXT_MODELS.search(name)
    ):
        traits |= TEXT
    if name.startswith(_AWAY) or _PICTURES.search(name):
        traits |= ELSEWHERE
    if _PICTURE.search(name):
        traits |= PICTURE
    if name in _SELECTORS:
        traits |= SELECTOR
    if (
        name.startswith(("model", "guider", "pipe", "context", "ctx", "unet"))
        or "lora_stack" in name
    ):
        traits |= MODEL
    if name.startswith(("latent", "samples", "optional_latent")):
        traits |= LATENT
    if name.startswith(("noise", "sigmas", "sampler", "guider")):
        traits |= SAMPLING
    if name.startswith(("positive", "guider", "conditioning")):
        traits |= GUIDANCE
    return traits


# Inputs of core nodes, examined in advance. Short, since every graph copies it.
_COMMON = {
    name: traits_of(name)
    for name in (
        *("images", "image", "samples", "latent_image", "pixels", "mask", "upscale_model"),
        *("model", "clip", "vae", "positive", "negative", "conditioning", "conditioning_1"),
        *("conditioning_2", "control_net", "strength", "noise", "guider", "sampler", "sigmas"),
        *("clip_vision", "clip_vision_output", "start_image", "seed", "width", "height"),
        *("text", "text_g", "text_l", "clip_l", "t5xxl", "guidance", "prompt", "string", "value"),
    )
}


class Names(dict[str, int]):
    """Traits by input name, computed once per graph."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_COMMON)

    def __missing__(self, name: str) -> int:
        traits = self[name] = traits_of(name)
        return traits
