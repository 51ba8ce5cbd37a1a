from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from unprompt.training.data.colour_jitter import LUMA, ColourJitter, recoloured


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Soft colours, so that nothing is clipped on the way."""
    random = np.random.default_rng(0)
    coarse = random.integers(70, 180, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_brightness_contrast_and_saturation_are_torchvisions(picture, factor):
    for name, change in (
        ("brightness", recoloured(picture, factor, 1, 1, 0)),
        ("contrast", recoloured(picture, 1, factor, 1, 0)),
        ("saturation", recoloured(picture, 1, 1, factor, 0)),
    ):
        expected = getattr(reference, f"adjust_{name}")(picture, factor)
        assert difference(change, expected) < 1.2, name


def test_a_turn_of_the_hue_turns_it_and_keeps_the_luma(picture):
    turned = recoloured(picture, 1, 1, 1, 0.05)
    before, after = np.asarray(picture, np.float64), np.asarray(turned, np.float64)
    assert np.abs(after @ LUMA - before @ LUMA).max() < 2
    colour = Image.new("RGB", (9, 9), (150, 90, 90))
    hues = []
    for turn in (0, 0.05, 0.1):
        red, green, blue = np.asarray(recoloured(colour, 1, 1, 1, turn))[0, 0] / 255
        hues.append(colorsys.rgb_to_hsv(red, green, blue)[0])
    steps = [(b - a + 0.5) % 1 - 0.5 for a, b in itertools.pairwise(hues)]
    # The circles of YIQ and of HSV are not alike in detail, but they are circles.
    assert all(0.02 < abs(step) < 0.09 for step in steps)
    assert steps[0] * steps[1] > 0
    assert difference(recoloured(picture, 1, 1, 1, 1.0), picture) < 0.6


def test_jitter_stays_within_its_ranges_and_follows_the_seed(picture):
    jitter = ColourJitter(0.15, 0.15, 0.1, 0.02)

    def drawn(seed: int) -> Image.Image:
        torch.manual_seed(seed)
        return jitter(picture)

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert max(difference(drawn(seed), picture) for seed in range(20)) < 40
    assert ColourJitter(0, 0, 0, 0)(picture) == picture
    assert jitter(Image.new("RGB", (3, 2))).size == (3, 2)
