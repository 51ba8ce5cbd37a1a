"""What write_prompt writes, read finds."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unprompt.errors import OutputError
from unprompt.reading import Settings, read, write_prompt

PICTURE = Image.new("RGB", (8, 8), "teal")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("prompt", ["a plain teapot", "一只猫 🐱, café ☕", "two\nlines, \nthree"])
def test_read_finds_what_was_written(tmp_path: Path, suffix: str, prompt: str) -> None:
    path = tmp_path / f"image{suffix}"
    stated = {"seed": 7, "steps": 20, "sampler": "Euler a", "guidance": 7.5, "model": "sd, v2"}
    write_prompt(PICTURE, path, prompt, "blurry", stated | {"width": 8, "height": 8})
    reading = read(path)
    assert reading is not None
    assert reading.prompt == prompt
    assert reading.negative_prompt == "blurry"
    assert reading.generator == "unprompt"
    got = reading.settings
    assert (got.seed, got.steps, got.sampler, got.guidance) == (7, 20, "Euler a", 7.5)
    assert got.model == "sd, v2"
    assert got.size == (8, 8)


def test_a_prompt_alone_is_enough(tmp_path: Path) -> None:
    write_prompt(PICTURE, tmp_path / "x.png", "a fox", settings=Settings(seed=3))
    reading = read(tmp_path / "x.png")
    assert reading is not None
    assert (reading.prompt, reading.negative_prompt, reading.settings.seed) == ("a fox", None, 3)


@pytest.mark.parametrize("prompt", ["unknown", "Undefined"])
def test_a_word_that_others_write_for_no_prompt_comes_back(tmp_path: Path, prompt: str) -> None:
    write_prompt(PICTURE, tmp_path / "x.png", prompt, settings={"steps": 4})
    reading = read(tmp_path / "x.png")
    assert reading is not None
    assert reading.prompt == prompt


def test_a_prompt_that_the_form_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot hold"):
        write_prompt(PICTURE, tmp_path / "x.png", "a fox\nNegative prompt: a dog")
    with pytest.raises(OutputError, match="only"):
        write_prompt(PICTURE, tmp_path / "x.gif", "a fox")
    assert not list(tmp_path.iterdir())


@settings(max_examples=60)
@given(prompt=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_prompt_comes_back_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, prompt: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.png"
    try:
        write_prompt(PICTURE, path, prompt, settings={"steps": 4})
    except OutputError:
        return
    reading = read(path)
    assert (reading.prompt if reading else "").strip() == prompt.strip()
