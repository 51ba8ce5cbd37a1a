from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unprompt.errors import TableError
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import Pair, PairsTable
from unprompt.training import once, pictures
from unprompt.training.pictures import MARGIN, Pictures, shrunk

SIZE = 32


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path: Path) -> PairsTable:
    """Noise of many shapes, in three formats, and one file that is no image."""
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    pairs = []
    for row, (width, height) in enumerate([(64, 64), (90, 60), (20, 30), (200, 40), (33, 500)]):
        for suffix in ("png", "jpg", "webp"):
            coarse = random.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), np.uint8)
            name = f"{row}.{suffix}"
            Image.fromarray(coarse).resize((width, height), 3).save(folder / name)
            pairs.append(Pair(name, name, f"prompt {name}"))
    (folder / "broken.png").write_bytes(b"broken")
    pairs.insert(7, Pair("broken", "broken.png", "nothing"))
    return PairsTable.from_pairs(pairs, folder, "noise")


def test_whole_pictures_are_exactly_what_the_model_takes(table):
    preprocessing = Preprocessing(SIZE)
    stored = Pictures(table, preprocessing, whole=True)
    assert len(stored) == len(table)
    for row in {*range(len(table))} - {7}:
        expected = preprocessing(table.open_image(row, at_least=2 * SIZE))
        np.testing.assert_array_equal(stored.pixels(row), expected)
    with pytest.raises(ValueError, match="are whole"):
        stored.image(0)


def test_pictures_for_crops_keep_their_shape_and_a_margin(table):
    stored = Pictures(table, Preprocessing(SIZE), whole=False)
    side = round(MARGIN * SIZE + 0.5)
    for row in {*range(len(table))} - {7}:
        image, original = stored.image(row), table.open_image(row)
        assert min(image.size) == min(side, *original.size)
        assert image.width / image.height == pytest.approx(original.width / original.height, 0.05)
        small = np.asarray(original.resize(image.size, 3), np.float32)
        assert np.abs(np.asarray(image) - small).mean() < 6
    with pytest.raises(ValueError, match="not whole"):
        stored.pixels(0)


def test_they_are_decoded_once(table, monkeypatch):
    Pictures(table, Preprocessing(SIZE), whole=True)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(pictures, "_read", refuse)
    again = Pictures(table, Preprocessing(SIZE), whole=True)
    assert again.pixels(0).shape == (3, SIZE, SIZE)
    with pytest.raises(AssertionError):
        Pictures(table, Preprocessing(SIZE + 1), whole=True)


def test_a_damaged_image_is_named_each_time(table):
    for _ in range(2):
        with pytest.raises(TableError, match=r"noise, row 8: image 'broken\.png'"):
            Pictures(table, Preprocessing(SIZE), whole=True).pixels(7)


def test_chunks_are_resumed_and_other_processes_read_them(table, monkeypatch):
    whole = [Pictures(table, Preprocessing(SIZE), whole=False).image(row) for row in (0, 9, 15)]
    monkeypatch.setattr(once, "CHUNK", 4)
    monkeypatch.setattr(pictures, "CHUNK", 4)
    shutil.rmtree(once.cache_dir())
    read = pictures._read
    seen: list[int] = []
    killed: set[int] = set()

    def dies(table: PairsTable, at_least: int, form: object, row: int) -> object:
        if row == 10 and row not in killed:
            killed.add(row)
            raise KeyboardInterrupt
        seen.append(row)
        return read(table, at_least, form, row)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_read", dies)
        with pytest.raises(KeyboardInterrupt):
            Pictures(table, Preprocessing(SIZE), whole=False)
        stored = Pictures(table, Preprocessing(SIZE), whole=False)
    assert seen.count(0) == 1
    stored.image(3)
    elsewhere = pickle.loads(pickle.dumps(stored))
    for row, expected in zip((0, 9, 15), whole, strict=True):
        assert stored.image(row) == elsewhere.image(row) == expected


def test_nothing_is_enlarged():
    image = Image.new("RGB", (50, 40))
    assert shrunk(image, 60).size == (50, 40)
    assert shrunk(image, 20).size == (25, 20)
    assert shrunk(Image.new("RGB", (10, 4000)), 8).size == (8, 3200)
