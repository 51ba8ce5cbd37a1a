"""The bar is drawn for people and for nobody else."""

import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr

import pytest

from unprompt.progress import progress_bars, track


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def shown(
    items: Iterable[int], total: int | Callable[[], int] | None = None, show: bool = True
) -> str:
    """What a terminal gets while ``items`` pass, which must be 0, 1, 2."""
    with redirect_stderr(Terminal()) as terminal, progress_bars(show):
        assert list(track(items, "Encoding", total)) == [0, 1, 2]
    return terminal.getvalue()


def numbers() -> Iterator[int]:
    yield from range(3)


def test_on_a_terminal_it_shows_what_is_done_and_how_far():
    text = shown([0, 1, 2])
    assert "Encoding" in text
    assert "3/3" in text
    assert re.search(r"\d/s", text), "items a second"
    assert "0:00:00" in text, "time taken and time left"


def test_lines_printed_beside_a_bar_command_nothing():
    with redirect_stderr(Terminal()) as terminal, progress_bars():
        for _ in track([0], "Reading \x1b]0;title\x07"):
            sys.stderr.write("fox\x1b[8m hidden\n")
    assert "fox\\x1b[8m hidden" in terminal.getvalue()
    assert "\\x1b]0;title\\x07" in terminal.getvalue()
    assert "\x1b[8m" not in terminal.getvalue()


def test_the_total_may_be_told():
    assert "3/30" in shown(numbers(), total=30)


def test_the_total_is_counted_only_where_the_bar_is_drawn():
    counted: list[None] = []

    def total() -> int:
        counted.append(None)
        return 30

    assert shown(numbers(), total, show=False) == ""
    assert not counted
    assert "3/30" in shown(numbers(), total)
    assert len(counted) == 1


def test_a_total_that_nobody_knows():
    assert "3/?" in shown(numbers())


def test_not_where_it_is_switched_off():
    assert shown([0, 1, 2], show=False) == ""


def test_python_code_shows_none_unless_it_asks():
    with redirect_stderr(Terminal()) as terminal:
        assert list(track([1, 2], "Encoding")) == [1, 2]
        with progress_bars(), progress_bars(False):
            assert list(track([1, 2], "Encoding")) == [1, 2]
    assert terminal.getvalue() == ""


def test_only_the_first_process_of_torchrun_draws(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    assert shown([0, 1, 2]) == ""
    monkeypatch.setenv("RANK", "0")
    assert "3/3" in shown([0, 1, 2])


def test_not_into_logs_and_pipes_and_never_to_standard_output(
    capsys: pytest.CaptureFixture[str],
):
    with progress_bars():
        assert list(track([1, 2], "Encoding")) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_an_error_passes_and_the_bar_goes_away():
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("bad item")

    shows = redirect_stderr(Terminal())
    with shows as terminal, progress_bars(), pytest.raises(ValueError, match="bad item"):
        list(track(failing(), "Encoding"))
    # Erases its line, and gives the cursor back.
    assert terminal.getvalue().endswith("\x1b[2K")
    assert "\x1b[?25h" in terminal.getvalue()
