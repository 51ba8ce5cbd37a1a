"""Harvest: a pairs table from a folder tree, resumed after any interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from unprompt.collecting import harvest as module
from unprompt.collecting.harvest import harvest
from unprompt.errors import OutputError, UnreadableImageError
from unprompt.pairs.table import load
from unprompt.pairs.validation import validate
from unprompt.reading import write_prompt


def picture(path: Path, prompt: str | None, colour: str = "teal", **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (6, 4), colour)
    if prompt is None:
        image.save(path)
    else:
        write_prompt(image, path, prompt, "blurry", {"seed": 3, "steps": 20, **settings})
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    picture(folder / "a.png", "a fox")
    picture(folder / "b" / "c.jpg", "a wolf", guidance=7.5)
    picture(folder / "b" / "none.png", None)
    copied = folder / "z" / "copy.png"
    copied.parent.mkdir()
    copied.write_bytes((folder / "a.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no image")
    picture(folder / "captioned.png", None, "red").with_suffix(".txt").write_text("a red square")
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tree(tree: Path, tmp_path: Path, workers: int) -> None:
    result = harvest(tree, tmp_path / "pairs.parquet", workers=workers)
    assert (result.pairs, result.duplicates, result.without_prompt) == (3, 1, 1)
    assert result.generators == {"unprompt": 2, "unknown": 1}
    assert [file for file, _ in result.unreadable] == ["broken.png"]
    table = load(tmp_path / "pairs.parquet")
    validate(table, "decode")
    rows = {pair.file: pair for pair in table}
    assert list(rows) == ["a.png", "b/c.jpg", "captioned.png"]
    wolf = rows["b/c.jpg"]
    assert (wolf.prompt, wolf.negative_prompt, wolf.generator) == ("a wolf", "blurry", "unprompt")
    assert (wolf.seed, wolf.steps, wolf.guidance) == (3, 20, 7.5)
    assert (wolf.width, wolf.height, wolf.exact) == (6, 4, True)
    assert rows["captioned.png"].exact is False
    assert not list(tmp_path.glob("*.jsonl"))


def test_captions_can_be_left_out(tree: Path, tmp_path: Path) -> None:
    assert harvest(tree, tmp_path / "pairs.parquet", captions=False).pairs == 2


def test_a_table_inside_the_folder(tree: Path) -> None:
    harvest(tree, tree / "pairs.parquet", workers=1)
    assert harvest(tree, tree / "pairs.parquet").pairs == 3
    assert len(load(tree / "pairs.parquet")) == 3


def test_an_interrupted_harvest_goes_on(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "pairs.parquet"
    read_one, seen = module._read_one, []

    def interrupted(path: Path, **rest: object) -> object:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(path)
        return read_one(path, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_read_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        harvest(tree, output, workers=1)
    assert not output.exists()
    journal = tmp_path / "pairs.parquet.harvest.jsonl"
    whole = journal.read_bytes()
    assert whole.count(b"\n") == 3
    journal.write_bytes(whole[:-20])  # cut inside the last line, as a kill may

    again: list[Path] = []

    def counted(path: Path, **rest: object) -> object:
        again.append(path)
        return read_one(path, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_read_one", counted)
    result = harvest(tree, output)
    assert (result.pairs, result.resumed) == (3, 2)
    assert not {path.name for path in again} & {path.name for path in seen[:2]}


def test_changed_files_are_read_again(tree: Path, tmp_path: Path) -> None:
    entry = {"file": "a.png", "size": 1, "modified": 1, "pair": None, "error": None}
    journal = tmp_path / "pairs.parquet.harvest.jsonl"
    journal.write_text(json.dumps(entry) + "\nnonsense\n")
    result = harvest(tree, tmp_path / "pairs.parquet")
    assert (result.pairs, result.resumed) == (3, 0)


def test_an_empty_folder_gives_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    result = harvest(tmp_path / "none", tmp_path / "pairs.parquet")
    assert result.pairs == 0
    assert len(load(tmp_path / "pairs.parquet")) == 0


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="no such folder"):
        harvest(tmp_path / "none", tmp_path / "pairs.parquet")


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.JSONL"])
def test_a_table_of_another_format_is_refused_before_anything_is_read(
    tree: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(OutputError, match=r"a pairs table is a .parquet file"):
        harvest(tree, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_seeds_beyond_the_column_are_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", "a fox", seed=2**64 - 1)
    harvest(tmp_path / "images", tmp_path / "pairs.parquet")
    (pair,) = load(tmp_path / "pairs.parquet")
    assert pair.seed is None


def test_the_real_samples(shared: Path, tmp_path: Path) -> None:
    result = harvest(shared / "metadata" / "files", tmp_path / "pairs.parquet")
    table = load(tmp_path / "pairs.parquet")
    validate(table, "exist")
    assert result.pairs == len(table) > 100
    assert {"ComfyUI", "InvokeAI", "AUTOMATIC1111"} <= result.generators.keys()
    assert result.unreadable == ()
