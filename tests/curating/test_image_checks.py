from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from unprompt.curating.image_checks import (
    deduplicate_images,
    image_sides,
    is_blank,
    perceptual_hash,
)
from unprompt.errors import UnpromptError
from unprompt.pairs.table import Pair, PairsTable, load


def scene(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), np.uint8)
    return Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC)


def distance(one: Image.Image, other: Image.Image) -> int:
    return int((perceptual_hash(one) != perceptual_hash(other)).sum())


@pytest.mark.parametrize("seed", range(5))
def test_a_hash_survives_what_keeps_the_picture(seed, tmp_path):
    image = scene(seed)
    image.save(tmp_path / "worse.jpg", quality=40)
    assert distance(image, Image.open(tmp_path / "worse.jpg")) <= 4
    assert distance(image, image.resize((100, 100))) <= 4
    assert distance(image, image.filter(ImageFilter.GaussianBlur(2))) <= 4
    assert distance(image, image.point(lambda value: 30 + value * 0.8)) <= 4
    assert distance(image, scene(seed + 100)) > 12


def test_near_duplicates_are_groups_of_rows(tmp_path):
    for k in range(3):
        scene(k).save(tmp_path / f"{k}.png")
    scene(1).resize((90, 90)).save(tmp_path / "3.jpg", quality=50)
    (tmp_path / "4.png").write_bytes(b"no image")
    scene(0).save(tmp_path / "5.webp", quality=60)
    names = ["0.png", "1.png", "2.png", "3.jpg", "4.png", "5.webp"]
    table = PairsTable.from_pairs([Pair(name, name, "x") for name in names], tmp_path, "t")
    found = deduplicate_images(table)
    assert found.kept.tolist() == [0, 1, 2]
    assert [group.tolist() for group in found.groups] == [[0, 5], [1, 3]]
    assert list(found.failed) == [4]
    assert "row 5: image '4.png'" in found.failed[4]
    assert found.found.summary()["removed"] == 2


def test_a_distance_is_counted_in_bits(tmp_path):
    for k in range(12):
        scene(k % 6).filter(ImageFilter.GaussianBlur(k)).save(tmp_path / f"{k}.png")
    table = PairsTable.from_pairs([Pair(str(k), f"{k}.png", "x") for k in range(12)], tmp_path)
    hashes = np.array([perceptual_hash(table.open_image(row)) for row in range(12)])
    bits = (hashes[:, None] != hashes).sum(-1)
    for limit in (0, 3, 10, 25, 31):
        pairs = deduplicate_images(table, limit).found
        first = pairs.items.rows
        found = {
            (int(first[i]), int(first[j]))
            for i, j in zip(pairs.pairs.first, pairs.pairs.second, strict=True)
        }
        wanted = {(i, j) for i in first for j in first if i < j and bits[i, j] <= limit}
        assert found == wanted


@pytest.mark.parametrize("bad", [-1, 32])
def test_wrong_calls_are_refused(bad, tmp_path):
    table = PairsTable.from_pairs([], tmp_path)
    with pytest.raises(UnpromptError, match="0 to 31"):
        deduplicate_images(table, bad)
    with pytest.raises(UnpromptError, match="first or central"):
        deduplicate_images(table, keep="longest")
    assert deduplicate_images(table).kept.tolist() == []


def test_an_image_of_one_colour_is_blank():
    assert is_blank(Image.new("RGB", (9, 9), "teal"))
    assert is_blank(Image.fromarray(np.random.default_rng(0).integers(0, 3, (9, 9, 3), np.uint8)))
    assert not is_blank(scene(0))


def test_sides_come_from_the_table_or_from_the_file(tmp_path):
    scene(0).resize((40, 30)).save(tmp_path / "a.png")
    pairs = [
        Pair("a", "a.png", "x"),
        Pair("b", "a.png", "x", width=7, height=8),
        Pair("c", "z", "x"),
    ]
    table = PairsTable.from_pairs(pairs, tmp_path)
    assert image_sides(table, np.array([0, 1, 2])).tolist() == [[40, 30], [7, 8], [0, 0]]
    assert image_sides(table, np.array([2, 1])).tolist() == [[0, 0], [7, 8]]
    assert image_sides(table, np.array([], np.int64)).shape == (0, 2)


def test_seeds_of_one_prompt_are_no_near_duplicates(shared):
    table = load(shared / "pairs" / "pairs.jsonl").take(range(0, 11_189, 60))
    found = deduplicate_images(table)
    assert not found.failed
    assert len(found.kept) > 0.9 * len(table)
