"""The suffix of -o decides the format, and --format overrules it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from unprompt.cli import app
from unprompt.errors import OutputError
from unprompt.reading import write_prompt


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "fox.png"
    write_prompt(Image.new("RGB", (4, 4)), path, "a fox, in snow")
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("verb", ["read", "predict"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".JSON"])
def test_json(verb: str, suffix: str, image: Path, tmp_path: Path) -> None:
    output = tmp_path / f"out{suffix}"
    assert call(verb, image, "-o", output).exit_code == 0
    assert json.loads(output.read_text())["prompt"] == "a fox, in snow"


@pytest.mark.parametrize("verb", ["read", "predict"])
def test_csv(verb: str, image: Path, tmp_path: Path) -> None:
    assert call(verb, image, "-o", tmp_path / "out.csv").exit_code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["file"], row["prompt"]) == (str(image), "a fox, in snow")


@pytest.mark.parametrize("verb", ["read", "predict"])
@pytest.mark.parametrize("name", ["out.txt", "out"])
def test_text(verb: str, name: str, image: Path, tmp_path: Path) -> None:
    assert call(verb, image, "-o", tmp_path / name).exit_code == 0
    assert "a fox, in snow\n" in (tmp_path / name).read_text()


@pytest.mark.parametrize("verb", ["read", "predict"])
def test_the_option_overrules_the_suffix(verb: str, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    assert call(verb, image, "-o", output, "--format", "json").exit_code == 0
    assert json.loads(output.read_text())["prompt"] == "a fox, in snow"


@pytest.mark.parametrize("verb", ["read", "predict"])
def test_an_unknown_suffix_is_refused_and_nothing_written(
    verb: str, image: Path, tmp_path: Path
) -> None:
    done = call(verb, image, "-o", tmp_path / "out.xml")
    assert isinstance(done.exception, OutputError)
    assert "state --format" in str(done.exception)
    assert not (tmp_path / "out.xml").exists()


def test_a_search_writes_files_too(tmp_path: Path) -> None:
    output = tmp_path / "found.csv"
    assert call("bank", "search", "builtin", "a fox", "-o", output).exit_code == 0
    with output.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5
