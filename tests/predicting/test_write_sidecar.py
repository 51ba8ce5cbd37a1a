"""Answers beside their images, which nobody takes for the prompts that made them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unprompt.collecting.harvest import harvest
from unprompt.predicting.answer import Answer
from unprompt.predicting.write_sidecar import Sidecars, write_sidecar, write_sidecars
from unprompt.reading import read

from .conftest import picture


@pytest.fixture
def answer(tmp_path: Path) -> Answer:
    """An answer as a model gives it."""
    image = tmp_path / "cat.png"
    picture(0).save(image)
    return Answer(str(image), "a cat\nin the snow", "embed+bank", 0.5, model="builtin")


def test_the_caption_is_a_line_and_the_answer_stands_beside_it(answer: Answer) -> None:
    assert write_sidecar(answer)
    image = Path(answer.file)
    assert image.with_suffix(".txt").read_text() == "a cat in the snow\n"
    stated = json.loads(image.with_suffix(".json").read_text())
    assert (stated["predicted"], stated["file"], stated["score"]) == (True, "cat.png", 0.5)


@pytest.mark.parametrize(
    "prompt", ["a cat", "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Seed: 1"]
)
def test_a_guess_is_read_neither_as_a_prompt_nor_as_a_caption(answer: Answer, prompt: str) -> None:
    answer = replace(answer, prompt=prompt, settings={"seed": 7, "steps": 20})
    image = Path(answer.file)
    assert write_sidecar(answer)
    assert read(image) is None
    assert read(image, captions=True) is None
    assert harvest(image.parent, image.parent / "pairs.parquet").pairs == 0
    # Once somebody has edited it, it is theirs.
    image.with_suffix(".txt").write_text("my own cat")
    reading = read(image, captions=True)
    assert reading is not None
    assert (reading.prompt, reading.exact) == ("my own cat", False)


def test_what_was_read_is_no_guess(answer: Answer) -> None:
    assert write_sidecar(replace(answer, route="read", score=None))
    stated = json.loads(Path(answer.file).with_suffix(".json").read_text())
    assert stated["predicted"] is False


def test_own_files_are_written_again_and_those_of_others_are_not(answer: Answer) -> None:
    text = Path(answer.file).with_suffix(".txt")
    assert write_sidecar(answer)
    assert write_sidecar(replace(answer, prompt="a dog"))
    assert text.read_text() == "a dog\n"
    text.write_text("edited")
    assert not write_sidecar(answer)
    assert text.read_text() == "edited"
    assert write_sidecar(answer, overwrite=True)
    assert text.read_text() == "a cat in the snow\n"


@pytest.mark.parametrize("content", ['{"caption": "theirs"}', "{broken", "[]", "\xff"])
def test_a_json_file_of_others_stays(answer: Answer, content: str) -> None:
    stated = Path(answer.file).with_suffix(".json")
    stated.write_bytes(content.encode("latin-1"))
    assert not write_sidecar(answer)
    assert stated.read_bytes() == content.encode("latin-1")
    assert not stated.with_suffix(".txt").exists()


def test_images_that_share_a_name_share_no_sidecar(answer: Answer) -> None:
    assert write_sidecar(answer)
    assert not write_sidecar(replace(answer, file=answer.file.replace(".png", ".jpg")))


def test_answers_are_handed_on_and_counted(answer: Answer, tmp_path: Path) -> None:
    other = replace(answer, file=str(tmp_path / "dog.png"))
    (tmp_path / "dog.txt").write_text("mine")
    nowhere = replace(answer, file=str(tmp_path / "dog.txt" / "x.png"))
    failed = Answer(str(tmp_path / "bad.png"), error="not an image")
    counts = Sidecars()
    handed = list(write_sidecars([answer, other, failed, nowhere], counts))
    assert handed[:3] == [answer, other, failed]
    assert handed[3].error is not None
    assert "cannot write" in handed[3].error
    assert (counts.written, counts.kept) == (1, 1)
    assert str(counts).startswith("1 images got")
    assert not (tmp_path / "bad.txt").exists()
