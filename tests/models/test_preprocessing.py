from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.model_folder import PREPROCESSOR_FILE
from unprompt.models.preprocessing import Preprocessing


def halves(width: int, height: int) -> Image.Image:
    """Red on the left half, blue on the right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


@settings(max_examples=30)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    resize=st.sampled_from(["squash", "crop"]),
    crop=st.sampled_from([0.5, 0.875, 1.0]),
)
def test_pixels_have_the_models_shape_whatever_the_image(width, height, size, resize, crop):
    found = Preprocessing(size=size, resize=resize, crop=crop)(
        Image.new("RGB", (width, height), (3, 150, 250))
    )
    assert found.shape == (3, size, size)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert (found == np.array([3, 150, 250])[:, None, None]).all()


def test_squash_keeps_the_whole_picture():
    found = Preprocessing(size=8)(halves(64, 16))
    assert (found[0, :, :3] > 250).all()
    assert (found[2, :, 5:] > 250).all()


def test_crop_keeps_the_centre_alone():
    image = Image.new("RGB", (64, 16), "white")
    image.paste("black", (24, 0, 40, 16))
    # Resampling looks a little beyond the edge.
    assert Preprocessing(size=8, resize="crop")(image).max() < 64
    wide = Preprocessing(size=8)(image)
    assert wide.max() == 255


def test_crop_keeps_a_share_of_the_shorter_side():
    image = Image.new("RGB", (40, 40), "white")
    image.paste("black", (10, 10, 30, 30))
    assert Preprocessing(size=10, resize="crop", crop=0.5)(image).max() < 64
    assert Preprocessing(size=10, resize="crop")(image).max() == 255


def test_resizing_is_pillows():
    drawn = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(drawn)
    for name, kind in (("bilinear", Image.Resampling.BILINEAR), ("nearest", 0)):
        expected = np.asarray(image.resize((30, 30), kind)).transpose(2, 0, 1)
        np.testing.assert_array_equal(Preprocessing(30, interpolation=name)(image), expected)


def test_what_was_saved_is_loaded(tmp_path):
    stated = Preprocessing(48, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "crop", 0.875, "bilinear")
    stated.save(tmp_path)
    assert Preprocessing.load(tmp_path) == stated


def test_a_folder_without_one_is_no_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"preprocessor_config\.json is missing"):
        Preprocessing.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        (json.dumps({"do_resize": True}), "another program wrote it"),
        (json.dumps({"mean": [0], "std": [1], "colour": 3}), "another program wrote it"),
        ("[]", "another program wrote it"),
    ],
)
def test_a_file_that_is_not_ours(tmp_path, content, message):
    (tmp_path / PREPROCESSOR_FILE).write_text(content)
    with pytest.raises(UnpromptError, match=message):
        Preprocessing.load(tmp_path)
