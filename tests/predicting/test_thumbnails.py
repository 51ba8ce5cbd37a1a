"""Pictures in terminals: who is told by what, and what is sent."""

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from unprompt.predicting.answer import Answer
from unprompt.predicting.thumbnails import drawing, with_thumbnails

from .conftest import picture

KITTY = {"TERM": "xterm-kitty"}
ITERM = {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TERM": "xterm-256color"},
        {"TERM": "dumb"},
        {"TERM_PROGRAM": "Apple_Terminal"},
        {"KONSOLE_VERSION": "211203"},
        KITTY | {"TMUX": "/tmp/tmux,1,0"},
        ITERM | {"TERM": "screen-256color"},
    ],
)
def test_terminals_that_say_nothing_get_no_picture(environment: dict[str, str]) -> None:
    assert drawing(environment) is None


def shown(environment: dict[str, str], path: Path) -> str:
    draw = drawing(environment)
    assert draw is not None
    file = io.StringIO()
    answers = [Answer(str(path), "a cat", "read")]
    assert list(with_thumbnails(answers, file, draw)) == answers
    return file.getvalue()


@pytest.mark.parametrize("environment", [KITTY, {"KITTY_WINDOW_ID": "1"}])
def test_kitty_gets_a_png_in_chunks(tmp_path: Path, environment: dict[str, str]) -> None:
    noise = Image.effect_noise((900, 300), 90).convert("RGB")
    noise.save(tmp_path / "noise.png")
    text = shown(environment, tmp_path / "noise.png")
    parts = re.findall("\x1b_G([^;]*);([^\x1b]*)\x1b\\\\", text)
    assert len(parts) > 1
    assert parts[0][0].startswith("a=T,f=100,")
    assert [keys[-3:] for keys, _ in parts] == ["m=1"] * (len(parts) - 1) + ["m=0"]
    assert max(len(part) for _, part in parts) <= 4096
    png = base64.b64decode("".join(part for _, part in parts))
    assert Image.open(io.BytesIO(png)).size == (240, 80)


@pytest.mark.parametrize(
    "environment", [ITERM, {"LC_TERMINAL": "iTerm2"}, {"KONSOLE_VERSION": "221203"}]
)
def test_iterm2_gets_a_png(tmp_path: Path, environment: dict[str, str]) -> None:
    picture(0).save(tmp_path / "cat.png")
    found = re.fullmatch(
        "\x1b]1337;File=inline=1;size=(\\d+);height=6:(.*)\x07\n",
        shown(environment, tmp_path / "cat.png"),
    )
    assert found is not None
    png = base64.b64decode(found[2])
    assert len(png) == int(found[1])
    assert Image.open(io.BytesIO(png)).size == (96, 64)


def test_what_cannot_be_shown_is_answered_all_the_same(bad: dict[str, Path]) -> None:
    draw = drawing(KITTY)
    assert draw is not None
    answers = [
        Answer(str(bad["truncated.png"]), "its metadata were whole", "read"),
        Answer(str(bad["missing.png"]), error="no such file"),
    ]
    file = io.StringIO()
    assert list(with_thumbnails(answers, file, draw)) == answers
    assert file.getvalue() == ""
