from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from unprompt.errors import OutputError
from unprompt.files import cache_dir
from unprompt.models.preprocessing import Preprocessing
from unprompt.training.data.decode_once import cache_images, choose
from unprompt.training.data.images import TrainingImages
from unprompt.training.plan import plan

SIZE = 32
EACH = 3 * SIZE**2
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def parts(pairs) -> tuple[TrainingImages, TrainingImages]:
    """The images of 40 pairs to train on and of 10 to validate on."""
    known, unseen = pairs.of_split("train"), pairs.of_split("val")
    return tuple(TrainingImages(table, Preprocessing(SIZE), True) for table in (known, unseen))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Its one number is how many bytes are free."""
    free = [10**12]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free[0]))
    return free


def test_only_what_is_shown_more_than_once_is_kept(recipe, parts):
    known, unseen = parts
    recipe.schedule.batch_size, recipe.schedule.evaluations = 8, 1
    assert choose(recipe, 5, known, unseen).kept == []
    assert "shows no image twice" in choose(recipe, 5, known, unseen).line
    recipe.schedule.evaluations = 2
    assert choose(recipe, 5, known, unseen).kept == [unseen]
    recipe.schedule.accumulation, recipe.schedule.evaluations = 2, 1
    assert choose(recipe, 3, known, unseen).kept == [known]
    recipe.schedule.evaluate_every = 1
    assert choose(recipe, 3, known, unseen).kept == [known, unseen]
    recipe.data.decode_once = False
    assert choose(recipe, 3, known, unseen).kept == []
    recipe.data.decode_once, recipe.schedule.evaluate_every = True, None
    assert choose(recipe, 1, known, unseen).kept == [known, unseen]


def test_a_tenth_of_the_disk_is_the_limit_for_all_pictures_together(recipe, parts, disk):
    known, unseen = parts
    disk[0] = 10 * 50 * EACH
    assert choose(recipe, 6, known, unseen).kept == [known, unseen]
    disk[0] -= 10
    refused = choose(recipe, 6, known, unseen)
    assert refused.kept == []
    assert "exceed the 0 MB left of 10% of the disk" in refused.line
    recipe.data.decode_once = True
    assert choose(recipe, 6, known, unseen).kept == [known, unseen]
    recipe.data.decode_once = "auto"
    unseen.keep()
    # What lies there counts as free disk that is taken; it is read, and there is no room for more.
    disk[0] = 10 * 40 * EACH
    assert choose(recipe, 6, known, unseen).kept == [unseen]
    disk[0] = 10 * 60 * EACH
    assert choose(recipe, 6, known, unseen).kept == [known, unseen]


def test_pictures_that_are_kept_are_read_even_by_a_run_that_shows_them_once(recipe, parts, disk):
    for images in parts:
        images.keep()
    disk[0] = 0
    recipe.schedule.evaluations = 1
    assert choose(recipe, 1, *parts).kept == [*parts]


def test_a_cache_that_cannot_be_written_ends_only_a_run_that_insists(
    recipe, parts, tmp_path, capsys
):
    (tmp_path / "cache").write_text("a file where the folder would be")
    cache_images(recipe, 6, *parts)
    assert "decode_once: not all images, cannot write" in capsys.readouterr().err
    assert parts[0].pixels(0).shape == (3, SIZE, SIZE)
    recipe.data.decode_once = True
    with pytest.raises(OutputError, match="cannot write"):
        cache_images(recipe, 6, *parts)


def test_the_dry_run_says_what_the_run_will(recipe):
    line = plan(recipe).decoding
    assert line == f"decode_once: 50 images, 0 MB of pixels to write to {cache_dir() / 'images'}"
    assert str(plan(recipe)).endswith(line)
    assert not cache_dir().exists()
    recipe.data.table = "none.parquet"
    assert plan(recipe).decoding is None
