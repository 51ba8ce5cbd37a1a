"""Control characters reach a terminal as visible escapes."""

import io

import pytest
from rich.table import Table

from unprompt.terminal import TerminalStream, terminal_console, visible


class Terminal(io.StringIO):
    """A terminal that remembers what it was sent."""

    def isatty(self) -> bool:
        return True


def test_control_characters_become_escapes():
    assert visible("\x1b[31m猫 é\n\tx\r\x07\u202e\x9b") == (
        "\\x1b[31m猫 é\n    x\\r\\x07\\u202e\\x9b"
    )


def test_the_stream_escapes_and_counts_what_it_was_given():
    terminal = Terminal()
    assert TerminalStream(terminal).write("\x1b[2Jfox\r\n") == 9
    assert terminal.getvalue() == "\\x1b[2Jfox\n"


def test_the_stream_takes_no_bytes_and_has_no_buffer():
    stream = TerminalStream(Terminal())
    with pytest.raises(TypeError):
        stream.write(b"\x1b[2J")
    assert not hasattr(stream, "buffer")


@pytest.mark.parametrize("text", ["\r 50%|█████  | 1/2", "\n\n", "\x1b[A\x1b[A", "\r"])
def test_bars_of_tqdm_move_as_they_like(text):
    terminal = Terminal()
    TerminalStream(terminal).write(text)
    assert terminal.getvalue() == text


def test_a_name_in_a_bar_of_tqdm_commands_nothing():
    terminal = Terminal()
    TerminalStream(terminal).write("\rweights\x1b]0;x\x07\r: 50%")
    assert terminal.getvalue() == "\rweights\\x1b]0;x\\x07\\r: 50%"


def test_rich_colours_its_own_text_only(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    table = Table("\x1b[8mhidden", header_style="bold")
    terminal_console(TerminalStream(terminal)).print(table)
    assert "\\x1b[8mhidden" in terminal.getvalue()
    assert "\x1b[8m" not in terminal.getvalue()
    assert "\x1b[1m" in terminal.getvalue()


def test_files_get_the_text_of_rich_unchanged():
    file = io.StringIO()
    terminal_console(file).print("fox\x7f", markup=False)
    assert file.getvalue() == "fox\x7f\n"
