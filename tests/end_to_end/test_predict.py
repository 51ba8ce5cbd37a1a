"""The installed command ``unprompt predict``."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

COMMAND = Path(sys.executable).parent / "unprompt"


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, **options
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "inner").mkdir(parents=True)
    for number, place in enumerate(("b.png", "a.jpg", "inner/c.webp")):
        Image.radial_gradient("L").convert("RGB").rotate(90 * number).save(images / place)
    return images


def test_prints_an_answer_for_an_image(folder: Path) -> None:
    done = run("predict", folder / "a.jpg")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == str(folder / "a.jpg")
    assert "embed+bank" in lines[2]
    assert done.stderr == ""


def test_a_folder_gives_its_images_in_order(folder: Path) -> None:
    done = run("predict", folder, "--format", "json")
    files = [json.loads(line)["file"] for line in done.stdout.splitlines()]
    assert files == [str(folder / "a.jpg"), str(folder / "b.png")]
    done = run("predict", folder, "--format", "json", "--recursive")
    files = [json.loads(line)["file"] for line in done.stdout.splitlines()]
    assert files == [str(folder / name) for name in ("a.jpg", "b.png", "inner/c.webp")]


def test_bad_files_are_named_and_the_rest_is_done(folder: Path) -> None:
    (folder / "bad.png").write_text("no image")
    output = folder / "answers.jsonl"
    done = run("predict", folder, folder / "missing.png", "--format", "json", "-o", output)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{folder / 'bad.png'}: not an image" in done.stderr
    assert f"{folder / 'missing.png'}: no such file" in done.stderr
    assert "2 of 4 images failed" in done.stderr
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert [answer["error"] is None for answer in answers] == [True, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--route", "guess", "a.jpg"], "guess"),
        (["--nonsense", "a.jpg"], "--nonsense"),
        (["--top-k", "0", "a.jpg"], "top-k"),
        ([], "name images or folders"),
        (["--model", "hollow", "a.jpg"], "hollow"),
        (["hollow"], "no image found"),
    ],
)
def test_a_wrong_call_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    (folder / "hollow").mkdir()
    done = run("predict", *arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_output_that_cannot_be_written_keeps_the_old_one(folder: Path) -> None:
    blocked = folder / "file"
    blocked.write_text("kept")
    done = run("predict", folder / "a.jpg", "-o", blocked / "answers.txt")
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert blocked.read_text() == "kept"


def test_an_interrupt_ends_without_a_traceback(folder: Path) -> None:
    script = (
        "import signal, sys; from unprompt.cli import main;"
        # Whoever started the tests may have them ignore it, as a shell does in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import unprompt.predicting.predictor as p;"
        "p.Predictor.stream = lambda *a: signal.raise_signal(signal.SIGINT);"
        f"sys.argv = ['unprompt', 'predict', {str(folder)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_help_has_examples() -> None:
    done = run("predict", "--help")
    assert done.returncode == 0
    assert "unprompt predict picture.png" in done.stdout


def test_a_watched_folder_answers_until_interrupted(folder: Path) -> None:
    command = [COMMAND, "predict", "--watch", folder, "--interval", "0.1", "--write-sidecar"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "watching" in process.stderr.readline()
        (folder / "b.png").rename(folder / "new.png")
        assert process.stdout.readline().strip() == str(folder / "new.png")
        assert process.stdout.readline().strip()
        assert "embed+bank" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    assert "1 images answered" in told
    assert "1 images got a .txt and a .json" in told
    assert (folder / "new.txt").is_file()
    assert not (folder / "a.txt").exists()
