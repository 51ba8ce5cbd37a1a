from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from unprompt.training.data.augmentation import image_augmentation, pixel_augmentation
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
