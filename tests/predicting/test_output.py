"""Answers in every format."""

import csv
import io
import json

import numpy as np
import pytest

from unprompt.encoding import DEFAULT_ENCODER, load_encoder
from unprompt.predicting.answer import Alternative, Answer
from unprompt.predicting.output import FORMATS, write_answers

EMBEDDED = Answer(
    "folder/a.png",
    prompt='a cat, "quoted"',
    route="embed+bank",
    score=0.51239,
    alternatives=(Alternative("a dog", 0.40000001),),
    model="builtin",
    embedding=np.eye(384, dtype=np.float32)[0] * 2,
)
READ = Answer(
    "b.jpg",
    prompt="two\nlines",
    route="read",
    negative_prompt="blurry",
    generator="ComfyUI",
    settings={"seed": 1},
)
FAILED = Answer("c.gif", error="the file is empty (0 bytes)")


def written(form: str, answers: list[Answer]) -> str:
    file = io.StringIO(newline="")
    passed = list(write_answers(answers, file, form, DEFAULT_ENCODER))
    assert passed == answers
    return file.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_no_answers_are_fine(form: str) -> None:
    assert written(form, []).count("\n") <= 1


def test_text_is_for_people() -> None:
    assert written("text", [EMBEDDED, READ, FAILED]) == (
        "folder/a.png\n"
        '  a cat, "quoted"\n'
        "  · embed+bank, estimated cosine 0.51\n"
        "  · or: a dog\n"
        "b.jpg\n"
        "  two\n"
        "  lines\n"
        "  · read from the file (ComfyUI)\n"
        "  · negative: blurry\n"
    )


def test_json_has_the_stated_keys_in_order() -> None:
    lines = [json.loads(line) for line in written("json", [EMBEDDED, READ, FAILED]).splitlines()]
    keys = "file prompt route score alternatives negative_prompt generator settings model error"
    assert [list(line) for line in lines] == [[*keys.split(), "certain"]] * 3
    assert lines[0]["score"] == 0.5124
    assert lines[0]["alternatives"] == [{"prompt": "a dog", "score": 0.4}]
    assert lines[1]["prompt"] == "two\nlines"
    assert lines[1]["score"] is None
    assert lines[2]["prompt"] is None


def test_csv_comes_back_as_it_went() -> None:
    rows = list(csv.DictReader(io.StringIO(written("csv", [EMBEDDED, READ, FAILED]), newline="")))
    assert [row["prompt"] for row in rows] == [EMBEDDED.prompt, READ.prompt, ""]
    assert json.loads(rows[1]["settings"]) == {"seed": 1}
    assert rows[2]["error"] == FAILED.error


def test_kaggle_has_a_row_for_each_dimension() -> None:
    rows = list(
        csv.DictReader(io.StringIO(written("kaggle", [EMBEDDED, READ, FAILED]), newline=""))
    )
    assert [row["imgId_eId"] for row in rows] == [f"{i}_{e}" for i in "ab" for e in range(384)]
    values = np.array([float(row["val"]) for row in rows]).reshape(2, 384)
    assert np.linalg.norm(values, axis=1) == pytest.approx(1, abs=1e-5)
    exact = load_encoder(DEFAULT_ENCODER).encode([READ.prompt or ""])[0]
    np.testing.assert_allclose(values[1], exact, atol=1e-6)
