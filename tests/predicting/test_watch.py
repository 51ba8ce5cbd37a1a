"""Images that appear while a folder is watched."""

from pathlib import Path

import pytest

from unprompt.errors import UnpromptError
from unprompt.predicting import watch as watching
from unprompt.predicting.watch import new_images

from .conftest import picture


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What happens in the folder between two looks: a function for each, called in turn."""
    waiting: list[object] = []

    def sleep(seconds: float) -> None:
        if not waiting:
            raise KeyboardInterrupt
        step = waiting.pop(0)
        if callable(step):
            step()

    monkeypatch.setattr(watching.time, "sleep", sleep)
    return waiting


def seen(folder: Path, recursive: bool = False) -> list[list[str]]:
    found = []
    try:
        for paths in new_images(folder, recursive=recursive):
            found.append([str(path.relative_to(folder)) for path in paths])
    except KeyboardInterrupt:
        return found
    raise AssertionError("watching ends by an interrupt only")


def test_only_what_appears_is_given_and_once(tmp_path: Path, turns: list[object]) -> None:
    picture(0).save(tmp_path / "old.png")

    def appear() -> None:
        for name in ("b.png", "a.jpg"):
            picture(1).save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("no image")
        picture(1).save(tmp_path / ".hidden.png")

    def change() -> None:
        picture(2, (50, 50)).save(tmp_path / "b.png")

    turns += [appear, None, change, None, None]
    assert seen(tmp_path) == [["a.jpg", "b.png"]]


def test_a_file_is_waited_for_while_it_grows(tmp_path: Path, turns: list[object]) -> None:
    path = tmp_path / "slow.png"
    picture(0).save(tmp_path / "whole.tmp", "PNG")
    content = (tmp_path / "whole.tmp").read_bytes()
    turns += [
        path.touch,
        None,
        lambda: path.write_bytes(content[:100]),
        lambda: path.write_bytes(content),
        lambda: (tmp_path / "whole.tmp").rename(tmp_path / "renamed.png"),
        None,
    ]
    assert seen(tmp_path) == [["slow.png"], ["renamed.png"]]


def test_what_is_gone_again_is_not_given(tmp_path: Path, turns: list[object]) -> None:
    path = tmp_path / "brief.png"
    turns += [lambda: picture(0).save(path), path.unlink, None]
    assert seen(tmp_path) == []


def test_sub_folders_are_looked_into_when_asked(tmp_path: Path, turns: list[object]) -> None:
    def appear() -> None:
        (tmp_path / "inner").mkdir()
        picture(0).save(tmp_path / "inner" / "a.png")
        (tmp_path / "inner" / "loop").symlink_to(tmp_path)

    turns += [appear, None, None]
    assert seen(tmp_path, recursive=True) == [["inner/a.png"]]
    turns += [None, None]
    assert seen(tmp_path) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, turns: list[object]) -> None:
    with pytest.raises(UnpromptError, match="cannot be watched"):
        new_images(tmp_path / "nowhere")
    (tmp_path / "soon").mkdir()
    turns += [(tmp_path / "soon").rmdir]
    with pytest.raises(UnpromptError, match="cannot be watched"):
        next(new_images(tmp_path / "soon"))
