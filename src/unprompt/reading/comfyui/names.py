"""What the names of inputs tell: which side, conditioning or text, picture or something else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_POSITIVE = re.compile(r"(?:^|[^a-z])(?:positive|pos)(?:$|[^a-z])|^positive", re.IGNORECASE)
_NEGATIVE = re.compile(
    r"(?:^|[^a-z])(?:negative|neg|uncond\w*)(?:$|[^a-z])|^negative|^uncond", re.IGNORECASE
)
_CONDITIONING = re.compile(
    r"(?:^|[^a-z])cond(?:$|[^a-z])|conditioning|guider|embeds", re.IGNORECASE
)
_BUNDLE = re.compile(r"pipe|ctx|context|bundle", re.IGNORECASE)
_TEXT = re.compile(
    r"(?:^|[^a-z])(?:text|prompt|string|str|caption|wildcard|tags?|description|value|content"
    r"|clip_[lgh]|t5\w*|llama\w*|bert|mt5xl|gemma\w*|qwen\w*|byt5|populated|words|lyrics)"
    r"(?:$|[^a-z])|text$|prompt$|string$",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"mode|type|template|delimiter|separator|method|normali|interpretation|_name$|^name$|path|file"
    r"|language|action|model|device|sampler|scheduler|seed|format|find|replace|system|control"
    r"|(?:^|_)style$|weight|dtype|title|color",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"^(?:model|clip|vae|unet|noise|sigmas|sampler|seed|width|height|steps|cfg|denoise)"
    r"|image|pixels|latent|samples|mask|control_?net|clip_vision|style_model|upscale|lora|gligen",
    re.IGNORECASE,
)
_PICTURE = re.compile(r"latent|samples|^images?$|^image\d*$|pixels|pipe", re.IGNORECASE)
_SAMPLER = frozenset(("model", "guider", "noise_seed", "seed", "sampler"))
_SELECTOR = re.compile(r"^(?:select|input|index|switch|choice|selected_index)$", re.IGNORECASE)


class Traits(NamedTuple):
    """What the name of an input tells about it.

    Attributes:
        positive: it takes what the picture shall show.
        negative: it takes what it shall not show.
        conditioning: it takes encoded text.
        bundle: it takes several things at once, conditioning perhaps among them.
        text: it holds words that reach an encoder.
        option: it holds a choice, not words.
        elsewhere: it leads away from text, to models and pictures.
        picture: it takes the picture that the node works on.
        selector: it says by a number which of the other inputs counts.
    """

    positive: bool
    negative: bool
    conditioning: bool
    bundle: bool
    text: bool
    option: bool
    elsewhere: bool
    picture: bool
    selector: bool

    def mine(self, side: str) -> bool:
        """Whether it is of ``side``: ``positive`` or ``negative``."""
        return self.positive if side == "positive" else self.negative

    def other(self, side: str) -> bool:
        """Whether it is of the side that is not ``side``."""
        return self.negative if side == "positive" else self.positive

    @property
    def towards_text(self) -> bool:
        """Whether it leads to encoded text."""
        return self.conditioning or self.positive or self.negative


def of_sampler(names: Iterable[str]) -> bool:
    """Whether one of the names is that of an input which only a node that makes pictures has."""
    for name in names:  # noqa: SIM110 - asked of every node, and a generator takes twice as long
        if name in _SAMPLER or "pipe" in name:
            return True
    return False


def traits_of(name: str) -> Traits:
    """Judge a name."""
    option = bool(_OPTION.search(name))
    return Traits(
        positive=bool(_POSITIVE.search(name)),
        negative=bool(_NEGATIVE.search(name)),
        conditioning=bool(_CONDITIONING.search(name)),
        bundle=bool(_BUNDLE.search(name)),
        text=bool(_TEXT.search(name)) and not option,
        option=option,
        elsewhere=bool(_ELSEWHERE.search(name)),
        picture=bool(_PICTURE.search(name)),
        selector=bool(_SELECTOR.search(name)),
    )


_COMMON = {
    name: traits_of(name)
    for name in (
        *("model", "clip", "vae", "positive", "negative", "latent_image", "samples", "images"),
        *("seed", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", "text"),
        *("ckpt_name", "vae_name", "lora_name", "strength_model", "strength_clip", "pixels"),
        *("width", "height", "batch_size", "filename_prefix", "conditioning", "guidance"),
        *("conditioning_1", "conditioning_2", "image", "mask", "control_net", "strength"),
        *("noise", "guider", "sampler", "sigmas", "unet_name", "weight_dtype", "upscale_method"),
        *("clip_name1", "clip_name2", "type", "stop_at_clip_layer", "crop", "upscale_model"),
        *("model_name", "add_noise", "start_at_step", "end_at_step", "scale_by", "shift"),
        *("return_with_leftover_noise", "control_net_name", "max_shift", "base_shift"),
    )
}


class Names(dict[str, Traits]):
    """Traits by name, judged once for each graph."""

    def __init__(self) -> None:
        super().__init__(_COMMON)

    def __missing__(self, name: str) -> Traits:
        traits = self[name] = traits_of(name)
        return traits
