import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.collecting.urls.web import served
from unprompt.collecting.urls.diffusiondb_parts import IMAGES_PER_PART, download_parts
from unprompt.collecting.urls.preset_list import Preset, load_presets
from unprompt.errors import TableError, UnpromptError
from unprompt.pairs.table import load
from unprompt.pairs.validation import validate


def _write_part(folder: Path, number: int, images: int = 3) -> None:
    """A part as DiffusionDB lays it out, but for the number of its images."""
    settings = {}
    with zipfile.ZipFile(folder / f"part-{number:06}.zip", "w") as archive:
        for index in range(images):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (number, index, 0)).save(buffer, "PNG")
            name = f"{number}-{index}.png"
            archive.writestr(name, buffer.getvalue())
            prompt = f"prompt {number} {index}"
            settings[name] = {"p": prompt, "se": 7, "c": 12.0, "st": 50, "sa": "k_lms"}
        archive.writestr(f"part-{number:06}.json", json.dumps(settings))


@pytest.fixture
def web(tmp_path: Path):
    folder = tmp_path / "web"
    folder.mkdir()
    for number in (1, 2, 3):
        _write_part(folder, number)
    with served(folder) as address:
        yield folder, _preset(address)


def _preset(address: str) -> Preset:
    return replace(load_presets()["diffusiondb"], list=address + "/part-{:06}.zip")


def test_true_prompts_and_settings(web, tmp_path: Path) -> None:
    _, preset = web
    result = download_parts(preset, tmp_path / "out", limit=IMAGES_PER_PART + 1)
    table = load(result.table)
    validate(table, images="decode")
    assert table.prompts == [f"prompt {n} {i}" for n in (1, 2) for i in range(3)]
    pair = next(iter(table))
    assert (pair.id, pair.file) == ("1-0", "part-000001/1-0.png")
    assert (pair.seed, pair.steps, pair.guidance, pair.sampler) == (7, 50, 12.0, "k_lms")
    assert (pair.source, pair.licence, pair.exact) == ("DiffusionDB", "CC0-1.0", True)
    assert len(load(download_parts(preset, tmp_path / "out", limit=2).table)) == 2


def test_a_part_that_cannot_be_had_is_tried_again_alone(web, tmp_path: Path) -> None:
    folder, preset = web
    whole = (folder / "part-000002.zip").read_bytes()
    (folder / "part-000002.zip").write_bytes(whole[: len(whole) // 2])
    first = download_parts(preset, tmp_path / "out", limit=3 * IMAGES_PER_PART)
    assert first.arrived == 6
    assert first.temporary == IMAGES_PER_PART
    assert "cut off" in next(iter(first.failures))
    assert not list((tmp_path / "out").glob("*part-000002*"))
    (folder / "part-000001.zip").unlink()  # what is there is not asked for again
    (folder / "part-000002.zip").write_bytes(whole)
    second = download_parts(preset, tmp_path / "out", limit=3 * IMAGES_PER_PART)
    assert (second.arrived, second.tried) == (9, IMAGES_PER_PART)
    assert load(second.table).prompts[3:6] == [f"prompt 2 {i}" for i in range(3)]


def test_a_part_that_is_missing_for_good(web, tmp_path: Path) -> None:
    folder, preset = web
    (folder / "part-000003.zip").unlink()
    result = download_parts(preset, tmp_path / "out", limit=3 * IMAGES_PER_PART)
    assert (result.arrived, result.temporary) == (6, 0)
    assert "404" in str(result)


def test_no_member_leaves_the_folder(web, tmp_path: Path) -> None:
    folder, preset = web
    with zipfile.ZipFile(folder / "part-000001.zip", "a") as archive:
        archive.writestr("../../outside.png", b"x")
        archive.writestr("run.sh", b"x")
    download_parts(preset, tmp_path / "out", limit=1)
    assert not (tmp_path / "outside.png").exists()
    assert not (tmp_path / "out" / "part-000001" / "run.sh").exists()


def test_a_part_of_another_layout_and_a_wrong_limit(web, tmp_path: Path) -> None:
    folder, preset = web
    with zipfile.ZipFile(folder / "part-000001.zip", "w") as archive:
        archive.writestr("x.png", b"x")
    with pytest.raises(TableError, match="not DiffusionDB's list of prompts"):
        download_parts(preset, tmp_path / "out", limit=1)
    with pytest.raises(UnpromptError, match="ask for 1 or more"):
        download_parts(preset, tmp_path / "out", limit=0)


def test_an_image_without_prompt_is_counted(web, tmp_path: Path) -> None:
    folder, preset = web
    with zipfile.ZipFile(folder / "part-000001.zip", "w") as archive:
        archive.writestr("a.png", b"x")
        archive.writestr("part-000001.json", json.dumps({"a.png": {"p": " "}, "b.png": {"p": "b"}}))
    result = download_parts(preset, tmp_path / "out", limit=1)
    assert result.failures == {"the image is missing from its part, or the prompt is empty": 2}
