"""Files beside an image: what a generator wrote counts, a caption only when asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.reading.making import A1111
from unprompt.reading import read

FOX = "a red fox, <lora:add_detail:0.8>"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.mark.parametrize("name", ["image.txt", "image.png.txt"])
def test_a_generators_text(image: Path, name: str) -> None:
    (image.parent / name).write_text(A1111)
    reading = read(image)
    assert reading is not None
    assert (reading.prompt, reading.exact) == (FOX, True)
    assert reading.where == (f"sidecar {name}",)
    assert reading.raw[-1].text == A1111


def test_a_generators_json(image: Path) -> None:
    stated = {"prompt": "a fox", "seed": 5, "use_stable_diffusion_model": "m"}
    image.with_suffix(".json").write_text(json.dumps(stated))
    reading = read(str(image))
    assert reading is not None
    assert (reading.prompt, reading.settings.seed) == ("a fox", 5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("image.txt", "a fox, snow\n"),
        ("image.caption", "a fox, snow"),
        ("image.json", json.dumps({"caption": "a fox, snow", "url": "x", "status": "success"})),
    ],
)
def test_captions_count_only_when_asked_for(image: Path, name: str, content: str) -> None:
    (image.parent / name).write_text(content)
    assert read(image) is None
    reading = read(image, captions=True)
    assert reading is not None
    assert (reading.prompt, reading.exact, reading.generator) == ("a fox, snow", False, None)


@pytest.mark.parametrize("content", ["", "  \n", "{broken", '{"status": "failed"}', "[1, 2]"])
def test_what_says_nothing(image: Path, content: str) -> None:
    image.with_suffix(".json").write_text(content)
    assert read(image, captions=True) is None


def test_the_image_itself_comes_first(image: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", "a wolf")
    Image.new("RGB", (4, 4)).save(image, pnginfo=info)
    image.with_suffix(".txt").write_text(A1111)
    reading = read(image)
    assert reading is not None
    assert reading.prompt == "a wolf"
    assert read(image.read_bytes()).prompt == "a wolf"  # type: ignore[union-attr]
