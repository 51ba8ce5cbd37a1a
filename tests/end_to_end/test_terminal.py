"""What the installed command sends to a terminal: no control character of a stranger."""

import os
import pty
import re
import subprocess
import sys
import tty
from pathlib import Path

import pytest
from PIL import Image

from unprompt.cli import VERBS
from unprompt.pairs.table import Pair, PairsTable, save
from unprompt.reading import write_prompt

COMMAND = Path(sys.executable).with_name("unprompt")

# Sets the title, fills the clipboard, clears the screen, hides text, moves the cursor.
HOSTILE = "fox\x1b]0;title\x07\x1b]52;c;cm0=\x07\x1b[2J\x1b[8m\x1b[9A\x9b31m\x7f\u202e"
NAME = HOSTILE + "\r.png"

# What rich writes: colours (but not 8, hidden), the cursor shown or hidden, one line up or cleared.
_RICH = re.compile(r"\x1b\[(?:(?!8m)[\d;]*m|\?25[lh]|1A|2K)")
_BAR = re.compile(r"\r(?=\x1b\[2K|\x1b\[1A|$)")


def on_terminal(*arguments: object) -> str:
    """What a terminal gets of a call's standard output and standard error."""
    leader, follower = pty.openpty()
    tty.setraw(follower)  # line breaks arrive as they were written
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "400"}
    call = [str(COMMAND), *map(str, arguments)]
    with subprocess.Popen(call, stdin=follower, stdout=follower, stderr=follower, env=environment):
        os.close(follower)
        sent = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # Linux: the last process that held the terminal has ended
                break
            if not part:
                break
            sent += part
    os.close(leader)
    return sent.decode()


def controls(text: str) -> set[str]:
    """The characters in what a terminal got that could command it, except those of rich."""
    text = _RICH.sub("", _BAR.sub("", text))
    return {char for char in text if not char.isprintable() and char != "\n"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hostile images, prompts, a table and a bank, under a hostile name."""
    place = tmp_path_factory.mktemp("there") / HOSTILE
    images = place / "images"
    images.mkdir(parents=True)
    image = Image.radial_gradient("L").convert("RGB")
    write_prompt(image, images / NAME, HOSTILE, HOSTILE, {"model": HOSTILE, "steps": 20})
    (images / f"broken{NAME}").write_bytes(b"x")
    (place / "prompts.txt").write_text(f"{HOSTILE}\na dog in the snow\n")
    pairs = [
        Pair(f"{HOSTILE}{number}", f"images/{NAME}", f"{HOSTILE} {word}", source=HOSTILE + word)
        for number, word in enumerate(("night", "morning", "with a hat", "on a boat"))
    ]
    lost = Pair("lost", f"images/broken{NAME}", "a dog", source="other")
    save(PairsTable.from_pairs([*pairs, lost], place), place / "pairs.parquet")
    (place / "bad.parquet").write_bytes(b"x")
    (place / "recipe.yaml").write_text('data: {table: "\\e]0;title\\a\\e[2Jpairs.parquet"}\n')
    built = subprocess.run(
        [COMMAND, "bank", "build", place / "prompts.txt", "-o", place / "bank"],
        capture_output=True,
    )
    assert built.returncode == 0, built.stderr
    return place


CALLS = [
    "predict {images}",
    "predict {images} --format csv",
    "predict {images} --format json",
    "predict {place}/nowhere",
    "predict {images} --model {place}/model",
    "read {images}",
    "read {images} --all",
    "read {images} --format a1111",
    "read {images} --format csv",
    "read {images} --format json",
    "bank search {place}/bank fox",
    "bank search {place}/bank fox --format csv",
    "bank build {place}/prompts.txt -o {place}/other",
    "harvest {images} -o {place}/harvested.parquet",
    "compose -n 5 -o {place}/composed.txt --diversity",
    "generate {place}/prompts.txt -o {place}/generated --backend sketch",
    "download {place}/bad.parquet -o {place}/downloaded",
    "filter {place}/pairs.parquet --dry-run --check-images",
    "encode {place}/prompts.txt -o {place}/prompts.npy",
    "dedup {place}/pairs.parquet --images -o {place}/distinct.parquet",
    "split {place}/pairs.parquet -o {place}/split.parquet",
    "convert {place}/bad.parquet {place}/bad.csv",
    "train {place}/recipe.yaml --dry-run",
    "export {place}/model -o {place}/exported",
    "zero-shot knn {place}/model {place}/prompts.txt -o {place}/made",
    "merge answers {place}/a {place}/b -o {place}/made",
    "evaluate builtin {place}/pairs.parquet --split all --no-text-scores",
    "calibrate builtin {place}/bad.parquet -o {place}/calibrated",
    "serve --model {place}/model",
    "read --\x1b[2J\x1b]0;title\x07",
    "\x1b[2J\x1b]0;title\x07",
]


@pytest.mark.parametrize("arguments", CALLS)
def test_no_verb_lets_a_stranger_command_the_terminal(place: Path, arguments: str) -> None:
    words = [word.format(place=place, images=place / "images") for word in arguments.split(" ")]
    sent = on_terminal(*words)
    assert not controls(sent), sent
    assert "\\x1b" in sent, f"it shows no hostile text: {sent}"
    assert "Traceback" not in sent


def test_every_verb_is_tried() -> None:
    verbs = {name for panel in VERBS.values() for name in panel}
    assert verbs <= {call.split()[0] for call in CALLS}


def test_pipes_get_the_text_as_it_is(place: Path) -> None:
    done = subprocess.run([COMMAND, "read", place / "images" / NAME], capture_output=True)
    assert done.stdout.decode().startswith(HOSTILE)
