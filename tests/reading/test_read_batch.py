"""Many files at once: in order, by several processes, past what cannot be read."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.reading import making
from unprompt.reading import Reading, read, read_batch, read_many
from unprompt.reading.formatting import show

Answer = tuple[str, str | None, bool]


def answer(path: Path, reading: Reading | None, problem: str | None) -> Answer:
    """Module-level, so that other processes find it."""
    return path.name, reading.prompt if reading else None, problem is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(150):
        (tmp_path / f"{number:03}.png").write_bytes(
            making.png(making.text("parameters", f"fox {number}\nSteps: 20, Seed: {number}"))
        )
    (tmp_path / "007.png").write_bytes(b"")
    (tmp_path / "100.png").write_bytes(making.png())
    return tmp_path


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_the_order_is_that_of_the_files(folder: Path, workers: int | None) -> None:
    paths = [*sorted(folder.iterdir()), folder / "gone.png"]
    answers = list(read_many(paths, answer, workers=workers))
    expected: list[Answer] = [(f"{n:03}.png", f"fox {n}", False) for n in range(150)]
    expected[7] = ("007.png", None, True)
    expected[100] = ("100.png", None, False)
    assert answers == [*expected, ("gone.png", None, True)]


def test_it_may_be_left_early_and_never_runs_far_ahead(folder: Path) -> None:
    asked = count()

    def paths() -> Iterator[Path]:
        for _ in range(20_000):
            next(asked)
            yield folder / "001.png"

    answers = read_many(paths(), answer, workers=2)
    assert next(answers) == ("001.png", "fox 1", False)
    answers.close()  # type: ignore[attr-defined]
    assert next(asked) < 1000


def fatal(path: Path, reading: Reading | None, problem: str | None, parent: int) -> str:
    """End the process that reads one of the files, as a lack of memory does."""
    if path.name == "040.png" and os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def test_nothing_is_lost_when_a_process_is_killed(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    names = list(read_many(paths, partial(fatal, parent=os.getpid()), workers=2))
    assert names == [path.name for path in paths]


def test_what_is_printed(folder: Path) -> None:
    paths = [folder / name for name in ("001.png", "007.png", "100.png")]
    plain = list(read_many(paths, partial(show, named=True)))
    assert plain[0] == (f"{paths[0]}\n    fox 1\n      seed     1\n      steps    20", None, False)
    assert plain[1] == (None, f"unprompt: {paths[1]}: the file is empty (0 bytes)", True)
    assert plain[2] == (None, f"{paths[2]}: no prompt found", False)
    as_json = list(read_many(paths, partial(show, form="json")))
    assert [line.failed for line in as_json] == [False, True, False]
    assert [line.note is None for line in as_json] == [True, False, True]


def test_an_error_of_one_file_does_not_end_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, captions: bool) -> Reading | None:
        if path.name == "003.png":
            raise RecursionError("too deep")
        return read(path, captions)

    monkeypatch.setattr(read_batch, "read", broken)
    answers = list(read_many(sorted(folder.iterdir())[:6], answer, workers=1))
    assert [failed for _, _, failed in answers] == [False, False, False, True, False, False]
