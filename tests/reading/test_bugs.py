"""Small files of faults that the exact route once had, each with its right answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unprompt.reading import read

FOLDER = Path(__file__).parents[3] / "shared" / "metadata" / "bugs"
EXPECTED = FOLDER / "expected.jsonl"
ROWS = [json.loads(line) for line in EXPECTED.open()] if EXPECTED.exists() else []


def bare(text: str | None) -> str:
    return (text or "").strip(" \t\r\n,")


@pytest.mark.skipif(not ROWS, reason="../shared/metadata/bugs is absent")
@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_file(row: dict[str, Any]) -> None:
    reading = read(FOLDER / "files" / row["file"])
    prompt = bare(reading.prompt) if reading else ""
    right = [bare(text) for text in (row["expected_prompt"], *row.get("expected_alt", ()))]
    assert prompt in right
    if row["expected_negative"] is not None:
        assert reading is not None
        assert bare(reading.negative_prompt) == row["expected_negative"]
    if row["expected_generator"] is not None:
        assert reading is not None
        assert (reading.generator or "").startswith(row["expected_generator"])
    if "declares_ai True" in row["note"]:
        assert reading is not None
        assert reading.declares_ai
