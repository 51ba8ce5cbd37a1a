"""Augmentation: random changes of training images that keep what their prompts say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageStat
from torchvision.transforms import v2

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
place left these out, as they change styles and colours that the prompt names."""

_RAND_AUGMENT = "rand-m9-n2-mstd0.5"
"""Two operations of magnitude 9 ± 0.5 (timm's usual recipe for fine-tuning)."""

_GREY = 127

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in a grey (ITU-R BT.601)."""

_TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def image_augmentation(settings: Data, size: int) -> Callable[[Image.Image], Any] | None:
    """From a decoded image to a square of ``size`` pixels; None where none is asked for."""
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
    """From uint8 pixels (3, size, size) to the same with a rectangle erased, or None."""
    if not settings.erase:
        return None
    erasing: Callable[[torch.Tensor], torch.Tensor] = v2.RandomErasing(settings.erase, value=_GREY)
    return erasing


class ColourJitter:
    """Random changes of colour as one affine map of each pixel, drawn from torch's generator.

    torchvision's ``ColorJitter`` changes brightness, contrast, saturation and hue one after the
    other, which takes 3.7 ms for an image of 224 px, most of it for the conversion to HSV and back.
    The one map, which Pillow applies in a single pass, takes a tenth of that. It differs in that
    values are clipped once, at the end, and that the hue turns about the grey axis at equal luma
    (YIQ) instead of in HSV.

    Args:
        brightness: factors are drawn from [1 - brightness, 1 + brightness].
        contrast: likewise, about the image's mean grey.
        saturation: likewise, about each pixel's grey.
        hue: turns are drawn from [-hue, hue], in whole circles.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float):
        self._ranges = torch.tensor([brightness, contrast, saturation, hue])

    def __call__(self, image: Image.Image) -> Image.Image:
        """An RGB image to another of the same size."""
        drawn = self._ranges * (2 * torch.rand(4) - 1)
        brightness, contrast, saturation = (1 + drawn[:3]).tolist()
        return recoloured(image, brightness, contrast, saturation, float(drawn[3]))


def recoloured(
    image: Image.Image, brightness: float, contrast: float, saturation: float, hue: float
) -> Image.Image:
    """Change an RGB image's colours: hue first, then saturation, contrast and brightness.

    Args:
        image: the image.
        brightness: factor of every value.
        contrast: factor of the distance from the image's mean grey.
        saturation: factor of the distance from each pixel's grey.
        hue: turn, in whole circles.
    """
    angle = 2 * math.pi * hue
    turn = np.eye(3)
    turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    grey = np.tile(LUMA, (3, 1))
    colours = np.linalg.solve(_TO_YIQ, turn @ _TO_YIQ)
    colours = saturation * colours + (1 - saturation) * grey @ colours
    # A small copy tells the mean as well.
    mean = LUMA @ ImageStat.Stat(image.reduce(8) if min(image.size) > 8 else image).mean
    shift = brightness * (1 - contrast) * mean
    matrix = np.hstack([brightness * contrast * colours, np.full((3, 1), shift)])
    return image.convert("RGB", tuple(matrix.ravel().tolist()))
