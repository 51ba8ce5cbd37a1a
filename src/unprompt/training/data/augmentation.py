"""Changes of training images that leave what their prompts say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from unprompt.training.data.colour_jitter import ColourJitter
from unprompt.training.recipe_sections import Data

_KEPT = (
    "AutoContrast",
    "Rotate",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
"""Of timm's RandAugment, all but posterise, solarise, equalise and invert: the competition's 3rd
place left these out, as they repaint a picture whose prompt names its style and colours."""

_RAND_AUGMENT = "rand-m9-n2-mstd0.5"
"""Two operations of magnitude 9 ± 0.5 (timm's usual recipe for fine-tuning)."""

_GREY = 127


def image_augmentation(settings: Data, size: int) -> Callable[[Image.Image], Any] | None:
    """From a decoded picture to a square of ``size`` pixels, or None where nothing is asked."""
    steps: list[Any] = []
    if settings.augment == "crop":
        steps.append(v2.RandomResizedCrop(size, scale=(0.9, 1.0), interpolation=3))
    elif settings.augment != "none":
        steps.append(
            v2.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.8, 1.25), interpolation=3)
        )
    if settings.augment == "mild":
        # Changes of colour that no prompt would notice.
        steps.append(ColourJitter(brightness=0.15, contrast=0.15, saturation=0.1, hue=0.02))
    if settings.augment == "strong":
        from timm.data.auto_augment import rand_augment_transform

        filling = {"img_mean": (_GREY,) * 3, "translate_pct": 0.2}
        steps.append(rand_augment_transform(_RAND_AUGMENT, filling, transforms=list(_KEPT)))
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip(settings.flip))
    return v2.Compose(steps) if steps else None


def pixel_augmentation(settings: Data) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """From uint8 pixels (3, size, size) to the same with a part erased, or None."""
    if not settings.erase:
        return None
    erasing: Callable[[torch.Tensor], torch.Tensor] = v2.RandomErasing(settings.erase, value=_GREY)
    return erasing
