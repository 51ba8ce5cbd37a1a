from __future__ import annotations

import colorsys
import itertools
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from unprompt.training.data.augmentation import (
    LUMA,
    ColourJitter,
    image_augmentation,
    pixel_augmentation,
    recoloured,
)
from unprompt.training.recipe import Data

SIZE = 48


@pytest.fixture
def picture() -> Image.Image:
    """Red on the left half, blue on the right, with noise."""
    noise = np.random.default_rng(0).integers(0, 60, size=(80, 80, 3), dtype=np.uint8)
    noise[:, :40, 0] += 190
    noise[:, 40:, 2] += 190
    return Image.fromarray(noise)


def drawn(settings: Data, picture: Image.Image, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    return np.asarray(image_augmentation(settings, SIZE)(picture))


@pytest.mark.parametrize("word", ["crop", "mild", "strong"])
def test_each_word_gives_squares_that_follow_the_seed(picture, word):
    settings = Data(augment=word)
    squares = [drawn(settings, picture, seed) for seed in range(6)]
    assert all(square.shape == (SIZE, SIZE, 3) for square in squares)
    assert not any(np.array_equal(squares[0], other) for other in squares[1:])
    np.testing.assert_array_equal(drawn(settings, picture, 3), squares[3])


def test_nothing_asked_nothing_done():
    assert image_augmentation(Data(augment="none"), SIZE) is None
    assert pixel_augmentation(Data()) is None


@pytest.mark.parametrize("word", ["crop", "mild", "strong"])
def test_left_stays_left_unless_flips_are_asked_for(picture, word):
    def left_is_red(settings: Data, seed: int) -> bool:
        square = drawn(settings, picture, seed).astype(int)
        left = square[:, : SIZE // 4]
        return left[..., 0].mean() > left[..., 2].mean()

    assert all(left_is_red(Data(augment=word), seed) for seed in range(20))
    assert not any(left_is_red(Data(augment=word, flip=1.0), seed) for seed in range(20))


def test_crops_keep_colours_and_mild_changes_them_a_little():
    flat = Image.new("RGB", (80, 80), (120, 90, 60))
    for seed in range(5):
        assert np.unique(drawn(Data(augment="crop"), flat, seed)).tolist() == [60, 90, 120]
    colours = np.array([drawn(Data(augment="mild"), flat, seed)[0, 0] for seed in range(20)])
    assert np.abs(colours.astype(int) - (120, 90, 60)).mean(axis=0).min() > 3
    assert np.abs(colours.astype(int) - (120, 90, 60)).max() < 60


def test_strong_leaves_out_what_repaints_a_picture():
    names = str(image_augmentation(Data(augment="strong"), SIZE)).lower()
    assert "rotate" in names
    for excluded in ("posterize", "solarize", "equalize", "invert"):
        assert excluded not in names


def test_erasing_greys_out_a_rectangle_now_and_then():
    pixels = torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    erase = pixel_augmentation(Data(erase=0.5))
    results = [erase(pixels) for _ in range(40)]
    changed = [result for result in results if not torch.equal(result, pixels)]
    assert 10 < len(changed) < 30
    for result in changed:
        assert set(result.unique().tolist()) == {127, 255}
        assert result.dtype == torch.uint8
    assert (pixels == 255).all()


@pytest.fixture(scope="module")
def soft_picture() -> Image.Image:
    """Soft colours, so that nothing is clipped on the way."""
    random = np.random.default_rng(0)
    coarse = random.integers(70, 180, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_brightness_contrast_and_saturation_are_torchvisions(soft_picture, factor):
    for name, change in (
        ("brightness", recoloured(soft_picture, factor, 1, 1, 0)),
        ("contrast", recoloured(soft_picture, 1, factor, 1, 0)),
        ("saturation", recoloured(soft_picture, 1, 1, factor, 0)),
    ):
        expected = getattr(reference, f"adjust_{name}")(soft_picture, factor)
        assert difference(change, expected) < 1.2, name


def test_a_turn_of_the_hue_turns_it_and_keeps_the_luma(soft_picture):
    turned = recoloured(soft_picture, 1, 1, 1, 0.05)
    before, after = np.asarray(soft_picture, np.float64), np.asarray(turned, np.float64)
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
    assert difference(recoloured(soft_picture, 1, 1, 1, 1.0), soft_picture) < 0.6


def test_jitter_stays_within_its_ranges_and_follows_the_seed(soft_picture):
    jitter = ColourJitter(0.15, 0.15, 0.1, 0.02)

    def drawn(seed: int) -> Image.Image:
        torch.manual_seed(seed)
        return jitter(soft_picture)

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert max(difference(drawn(seed), soft_picture) for seed in range(20)) < 40
    assert ColourJitter(0, 0, 0, 0)(soft_picture) == soft_picture
    assert jitter(Image.new("RGB", (3, 2))).size == (3, 2)
