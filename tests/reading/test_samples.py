"""The real samples: true prompts, negative prompts and settings (see their README)."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from unprompt.reading import Reading, read

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[tuple[Row, Reading | None]]:
    folder = shared / "metadata"
    with (folder / "expected.jsonl").open() as lines:
        wanted = [json.loads(line) for line in lines]
    return [(row, read(folder / row["file"])) for row in wanted]


def bare(text: str | None) -> str:
    return (text or "").strip(" \t\r\n,")


def is_right(row: Row, reading: Reading | None) -> bool:
    found = reading.prompt if reading else None
    if row["prompt"] is None:
        return not bare(found)
    return bare(found) in [bare(text) for text in (row["prompt"], *(row.get("prompt_alt") or ()))]


def test_prompts(rows: list[tuple[Row, Reading | None]]) -> None:
    clear = [(row, reading) for row, reading in rows if not row["ambiguous"]]
    wrong = [row["file"] for row, reading in clear if not is_right(row, reading)]
    assert len(clear) >= 100
    assert len(wrong) <= 0.01 * len(clear), wrong


def test_negative_prompts_and_settings(rows: list[tuple[Row, Reading | None]]) -> None:
    names = {"model": "model", "seed": "seed", "steps": "steps", "sampler": "sampler"}
    names["cfg"] = "guidance"
    wrong = defaultdict(list)
    for row, reading in rows:
        if row["ambiguous"] or reading is None:
            continue
        if row["negative_prompt"] and bare(reading.negative_prompt) != bare(row["negative_prompt"]):
            wrong[row["file"]].append("negative_prompt")
        for key, name in names.items():
            if row.get(key) is not None and getattr(reading.settings, name) != row[key]:
                wrong[row["file"]].append(key)
    assert not wrong


def test_every_answer_can_be_written(rows: list[tuple[Row, Reading | None]]) -> None:
    for _, reading in rows:
        if reading is not None:
            json.dumps(reading.to_dict(), allow_nan=False).encode()


def test_the_workflow_alone_gives_the_same_as_the_prompt_that_was_run(shared: Path) -> None:
    """Files of ComfyUI mostly hold both forms; the workflow alone must give the same."""
    from unprompt.reading import read_fields
    from unprompt.reading.family_registry import ask_families
    from unprompt.reading.image_texts import ImageTexts

    compared, wrong = 0, []
    for path in sorted((shared / "metadata" / "files" / "comfyui").iterdir()):
        fields = read_fields(path)
        runs = [f for f in fields if "class_type" in f.text]
        run = ask_families(ImageTexts(runs))
        drawn = ask_families(ImageTexts([f for f in fields if f not in runs]))
        if run is None or drawn is None:
            continue
        compared += 1
        if (bare(drawn.prompt), drawn.settings.seed) != (bare(run.prompt), run.settings.seed):
            wrong.append(path.name)
    assert compared > 50
    # One image of several prompts; which output comes first differs between the forms.
    assert wrong in ([], ["wyrde__compare-prompt-diff-x4_00043__trim.png"])
