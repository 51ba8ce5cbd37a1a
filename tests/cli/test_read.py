"""The verbs read and harvest, as they are called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from unprompt.cli import app
from unprompt.pairs.table import load
from unprompt.reading import write_prompt


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("unprompt")
    return subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    image = Image.new("RGB", (4, 4))
    write_prompt(image, folder / "fox.png", "a fox\nin snow", "dog", {"steps": 20, "seed": 5})
    image.save(folder / "none.png")
    return folder


def test_one_prompt_is_printed_alone(images: Path) -> None:
    done = run("read", images / "fox.png")
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "a fox\nin snow\n  seed     5\n  steps    20\n",
        "",
    )


def test_everything(images: Path) -> None:
    done = run("read", "--all", images / "fox.png")
    assert "negative prompt: dog\n" in done.stdout
    assert "seed: 5\n" in done.stdout


def test_json_of_a_folder_with_a_broken_file(images: Path) -> None:
    (images / "broken.png").write_bytes(b"x")
    done = run("read", "--format", "json", images)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["broken.png", "fox.png", "none.png"]
    assert "not an image" in lines[0]["error"]
    assert (lines[1]["prompt"], lines[2]["prompt"]) == ("a fox\nin snow", None)
    assert "raw" not in lines[1]
    assert done.stderr.count("\n") == 1


def test_text_of_a_folder(images: Path) -> None:
    done = run("read", images)
    assert done.returncode == 0
    assert (
        done.stdout
        == f"{images / 'fox.png'}\n    a fox\n    in snow\n      seed     5\n      steps    20\n"
    )
    assert "none.png: no prompt found" in done.stderr
    empty = run("read", images / "*.webp")
    assert empty.returncode == 1
    (images / "hollow").mkdir()
    hollow = run("read", images / "hollow")
    assert (hollow.returncode, "no image found" in hollow.stderr) == (2, True)


def test_harvest(images: Path, tmp_path: Path) -> None:
    def harvest(folder: Path) -> Result:
        # In this process: to load pyarrow anew for each call takes longer than all the rest.
        return CliRunner().invoke(app, ["harvest", str(folder), "-o", str(tmp_path / "p.parquet")])

    done = harvest(images)
    assert done.exit_code == 0, done.stderr
    assert "1 pairs written" in done.stderr
    assert "1  unprompt" in done.stderr
    assert load(tmp_path / "p.parquet").prompts == ["a fox\nin snow"]
    (images / "broken.png").write_bytes(b"x")
    done = harvest(images)
    assert done.exit_code == 1
    assert "broken.png: not an image" in done.stderr
    assert run("harvest", tmp_path / "none", "-o", tmp_path / "x.parquet").returncode == 2
