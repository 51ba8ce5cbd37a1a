"""The installed command ``unprompt encode``."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unprompt.encoding import encode
from unprompt.pairs.table import Pair, PairsTable, load, save

COMMAND = Path(sys.executable).parent / "unprompt"
PROMPTS = ["a red fox in the snow", "castle, oil painting", "a red fox in the snow", "美しい風景"]
FAST = ("--backend", "onnx", "--precision", "fp32")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "encode", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    pairs = [Pair(str(n), f"{n}.png", prompt) for n, prompt in enumerate(PROMPTS)]
    path = tmp_path / "pairs.parquet"
    save(PairsTable.from_pairs(pairs, tmp_path / "images"), path)
    return path


def expected() -> np.ndarray:
    return encode(PROMPTS, backend="onnx", precision="fp32", cache=False)


def test_text_to_an_array(text: Path, tmp_path: Path):
    done = run(text, "-o", tmp_path / "out.npy", *FAST)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{tmp_path / 'out.npy'}: 4 embeddings\n"
    array = np.load(tmp_path / "out.npy")
    assert array.dtype == np.float32
    assert np.abs(array - expected()).max() < 1e-6


@pytest.mark.parametrize("place", ["out.parquet", "elsewhere/out.parquet"])
def test_table_to_a_table_keeps_everything_and_replaces_old_embeddings(
    table: Path, tmp_path: Path, place: str
):
    before = load(table)
    save(before.with_columns({"embedding": np.ones((4, 5)), "extra": list("abcd")}), table)
    done = run(table, "-o", tmp_path / place, *FAST)
    assert done.returncode == 0
    after = load(tmp_path / place)
    assert np.abs(after.embeddings - expected()).max() < 1e-3
    assert after.column("extra") == list("abcd")
    assert after.root.resolve() == before.root.resolve()
    assert list(after) != list(before)
    stripped = after.with_columns({"embedding": before.data.column("embedding")})
    assert list(stripped) == list(before)


def test_table_to_an_array_and_in_place(table: Path, tmp_path: Path):
    assert run(table, "-o", tmp_path / "out.npy", *FAST).returncode == 0
    assert np.abs(np.load(tmp_path / "out.npy") - expected()).max() < 1e-6
    assert run(tmp_path, "-o", table, *FAST).returncode == 0
    assert load(table).embeddings.shape == (4, 384)


def test_an_empty_table(tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text("")
    done = run(tmp_path / "pairs.jsonl", "-o", tmp_path / "out.parquet", *FAST)
    assert done.returncode == 0, done.stderr
    assert len(load(tmp_path / "out.parquet")) == 0


@pytest.mark.parametrize(
    ("source", "output", "options", "message"),
    [
        ("prompts.txt", "out.parquet", (), "to a file that ends in .npy"),
        ("pairs.parquet", "out.csv", (), "ends in .npy or .parquet"),
        ("absent.txt", "out.npy", FAST, "absent.txt: cannot be read"),
        ("absent.parquet", "out.npy", FAST, "no such pairs table"),
        ("prompts.txt", "out.npy", ("--backend", "onnx", "--precision", "bf16"), "no precision"),
        ("prompts.txt", "out.npy", ("--encoder", "./nowhere"), "'./nowhere' was not found"),
        ("prompts.txt", "prompts.txt/out.npy", FAST, "cannot write"),
    ],
)
def test_wrong_calls_are_told_in_one_line(
    text: Path, table: Path, source: str, output: str, options: tuple[str, ...], message: str
):
    done = run(text.parent / source, "-o", text.parent / output, *options)
    assert done.returncode == 2
    assert done.stderr.startswith("unprompt: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in text.parent.iterdir()) == ["pairs.parquet", "prompts.txt"]


def test_killed_and_run_again(tmp_path: Path):
    path, output = tmp_path / "many.txt", tmp_path / "out.npy"
    path.write_text("\n".join(f"a castle, variation {n}" for n in range(300)))
    arguments = [COMMAND, "encode", path, "-o", output, *FAST]
    started = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.5)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert not output.exists() or len(np.load(output)) == 300
    assert run(path, "-o", output, *FAST).returncode == 0
    assert np.load(output).shape == (300, 384)


def test_help_shows_examples():
    done = run("--help")
    assert done.returncode == 0
    assert "unprompt encode prompts.txt -o prompts.npy --precision fp32" in done.stdout
