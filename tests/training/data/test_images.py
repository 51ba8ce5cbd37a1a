from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unprompt.errors import TableError
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import Pair, PairsTable
from unprompt.training.data import chunk_cache as once
from unprompt.training.data import images as module
from unprompt.training.data.images import MARGIN, TrainingImages, shrunk

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


@pytest.mark.parametrize("kept", [False, True])
def test_whole_pictures_are_exactly_what_an_evaluation_takes(table, kept):
    preprocessing = Preprocessing(SIZE)
    images = TrainingImages(table, preprocessing, whole=True)
    if kept:
        images.keep()
    assert len(images) == len(table)
    for row in {*range(len(table))} - {7}:
        expected = preprocessing(table.open_image(row, preprocessing.least_side))
        np.testing.assert_array_equal(images.pixels(row), expected)
    with pytest.raises(ValueError, match="are whole"):
        images.image(0)


def test_pictures_for_crops_keep_their_shape_and_a_margin_and_are_the_same_kept_or_not(table):
    live = TrainingImages(table, Preprocessing(SIZE), whole=False)
    stored = TrainingImages(table, Preprocessing(SIZE), whole=False).keep()
    side = round(MARGIN * SIZE + 0.5)
    for row in {*range(len(table))} - {7}:
        image, original = stored.image(row), table.open_image(row)
        np.testing.assert_array_equal(image, live.image(row))
        assert min(image.size) == min(side, *original.size)
        assert image.width / image.height == pytest.approx(original.width / original.height, 0.05)
        small = np.asarray(original.resize(image.size, 3), np.float32)
        assert np.abs(np.asarray(image) - small).mean() < 6
    with pytest.raises(ValueError, match="for crops"):
        stored.pixels(0)
    with pytest.raises(ValueError, match="call keep"):
        _ = live.readable


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are decoded from now on, in this process."""
    seen: list[int] = []
    decode = TrainingImages._decode

    def noted(self: TrainingImages, row: int) -> Image.Image:
        seen.append(row)
        return decode(self, row)

    monkeypatch.setattr(TrainingImages, "_decode", noted)
    return seen


def test_they_are_decoded_once(table, monkeypatch):
    seen = counted(monkeypatch)
    TrainingImages(table, Preprocessing(SIZE), whole=True).keep()
    assert sorted(seen) == list(range(16))
    again = TrainingImages(table, Preprocessing(SIZE), whole=True)
    assert again.bytes_to_keep() == 0
    assert again.keep().pixels(0).shape == (3, SIZE, SIZE)
    assert len(seen) == 16
    np.testing.assert_array_equal(again.readable, [*range(7), *range(8, 16)])
    other = TrainingImages(table, Preprocessing(SIZE + 1), whole=True)
    assert other.bytes_to_keep() == 16 * 3 * (SIZE + 1) ** 2
    other.keep()
    assert len(seen) == 32


def test_what_crops_will_take_is_told_from_the_sizes_in_the_table(table):
    written = [table.open_image(row).size if row != 7 else (8, 8) for row in range(16)]
    sizes = {"width": [w for w, _ in written], "height": [h for _, h in written]}
    images = TrainingImages(table.with_columns(sizes), Preprocessing(SIZE), whole=False)
    told = images.bytes_to_keep()
    images.keep()
    taken = sum(path.stat().st_size for path in once.cache_dir().rglob("pixels.npy"))
    assert told == pytest.approx(taken, rel=0.03)


def test_a_damaged_image_is_named_each_time_as_this_table_calls_it(table):
    for name in ("noise", "other"):
        table.name = name
        images = TrainingImages(table, Preprocessing(SIZE), whole=True).keep()
        with pytest.raises(TableError, match=rf"{name}, row 8: image 'broken\.png'"):
            images.pixels(7)


def test_images_of_one_name_in_two_folders_are_two(table, tmp_path):
    """Even of one size and time of change, as copied archives have them."""
    other = tmp_path / "other"
    shutil.copytree(table.root, other)
    (other / "0.webp").write_bytes((table.root / "3.webp").read_bytes())
    for path in (table.root / "0.webp", other / "0.webp"):
        content = path.read_bytes().ljust(100_000, b"\0")
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    first = TrainingImages(table, Preprocessing(SIZE), whole=True).keep()
    second = TrainingImages(PairsTable(table.data, other), Preprocessing(SIZE), whole=True).keep()
    assert not np.array_equal(first.pixels(2), second.pixels(2))
    np.testing.assert_array_equal(second.pixels(2), first.pixels(12))


def test_chunks_are_resumed_and_other_processes_read_them(table, monkeypatch):
    live = TrainingImages(table, Preprocessing(SIZE), whole=False)
    monkeypatch.setattr(module, "CHUNK", 4)
    decode = TrainingImages._decode
    killed: set[int] = set()

    def dies(self: TrainingImages, row: int) -> Image.Image:
        if row == 10 and row not in killed:
            killed.add(row)
            raise KeyboardInterrupt
        return decode(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingImages, "_decode", dies)
        with pytest.raises(KeyboardInterrupt):
            TrainingImages(table, Preprocessing(SIZE), whole=False).keep()
    seen = counted(monkeypatch)
    stored = TrainingImages(table, Preprocessing(SIZE), whole=False).keep()
    assert min(seen) == 8
    elsewhere = pickle.loads(pickle.dumps(stored))
    for row in (0, 9, 15):
        assert stored.image(row) == elsewhere.image(row)
        np.testing.assert_array_equal(stored.image(row), live.image(row))


def test_a_cache_that_is_deleted_meanwhile_costs_only_time(table):
    stored = TrainingImages(table, Preprocessing(SIZE), whole=True).keep()
    before = stored.pixels(4)
    shutil.rmtree(once.cache_dir())
    np.testing.assert_array_equal(stored.pixels(4), before)


def test_what_killed_calls_left_half_written_is_removed(table):
    stored = TrainingImages(table, Preprocessing(SIZE), whole=True).keep()
    (chunk,) = (once.cache_dir() / "images").glob("*/*")
    (chunk / "whole").unlink()
    (old, young) = (chunk / f".{name}.tmp.npy" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    stored.keep()
    assert young.exists()  # it may be another process's
    assert not old.exists()


def test_nothing_is_enlarged():
    image = Image.new("RGB", (50, 40))
    assert shrunk(image, 60).size == (50, 40)
    assert shrunk(image, 20).size == (25, 20)
    assert shrunk(Image.new("RGB", (10, 4000)), 8).size == (8, 3200)
