"""The CSV files that the installed command writes."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unprompt.reading import write_prompt

COMMAND = Path(sys.executable).with_name("unprompt")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True)


FORMULAS = ["=1+2", "+1", "-1 fox", "@SUM(A1)", "\t=1"]


@pytest.mark.parametrize("verb", ["read", "predict"])
def test_formulas_are_text_in_spreadsheets(tmp_path: Path, verb: str) -> None:
    for number, prompt in enumerate(FORMULAS):
        write_prompt(Image.new("RGB", (4, 4)), tmp_path / f"{number}.png", prompt)
    safe, raw = tmp_path / "safe.csv", tmp_path / "raw.csv"
    assert run(verb, tmp_path, "-o", safe).returncode == 0
    assert run(verb, tmp_path, "-o", raw, "--raw-csv").returncode == 0
    kept = [row["prompt"] for row in rows_of(raw)]
    assert [prompt.strip() for prompt in kept] == [prompt.strip() for prompt in FORMULAS]
    assert [row["prompt"] for row in rows_of(safe)] == [f"'{prompt}" for prompt in kept]


def test_formulas_in_a_bank_are_text_in_spreadsheets(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("=1+2\na fox\n")
    assert run("bank", "build", tmp_path / "prompts.txt", "-o", tmp_path / "bank").returncode == 0
    safe, raw = tmp_path / "safe.csv", tmp_path / "raw.csv"
    search = ("bank", "search", tmp_path / "bank", "=1+2", "-o")
    assert run(*search, safe).returncode == 0
    assert run(*search, raw, "--raw-csv").returncode == 0
    assert [row["prompt"] for row in rows_of(safe)] == ["'=1+2", "a fox"]
    assert [row["prompt"] for row in rows_of(raw)] == ["=1+2", "a fox"]
    assert all(float(row["cosine"]) <= 1 for row in rows_of(safe))


def test_prompts_of_several_lines_stay_one_cell(tmp_path: Path) -> None:
    write_prompt(Image.new("RGB", (4, 4)), tmp_path / "fox.png", "a fox\nin snow")
    assert run("read", tmp_path, "-o", tmp_path / "out.csv").returncode == 0
    assert [row["prompt"] for row in rows_of(tmp_path / "out.csv")] == ["a fox\nin snow"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
