"""Text for terminals: control characters arrive as visible escapes, never as commands.

Prompts and file names come from strangers. Written to a terminal as they are, they could set its
title, fill the clipboard (OSC 52) or erase the lines above. `guard_terminals` puts a stream that
escapes them over standard output and standard error, so no verb has to think of it. Files and
pipes get the text unchanged.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_RICH_CODES = re.compile(r"(\r|\x1b\[[\d;?]*[A-Za-z])")
"""The codes that rich writes: colours, moves of the cursor, and the start of the line."""

_TQDM_BAR = re.compile(r"\r[^\n]*|\n*(?:\x1b\[A)*")
"""One write of a tqdm bar. It has no line break, and every other text of a verb ends with one."""


def visible(text: str) -> str:
    """``text`` made safe for a terminal: control characters are written as escapes.

    Line breaks and tabs stay; a tab becomes four spaces. Bidirectional marks are escaped too,
    because they can change the order in which a line is shown.
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(char: str) -> str:
    if char == "\t":
        return "    "
    if char == "\n" or char.isprintable() or (char.isspace() and char not in "\r\v\f\x85"):
        return char
    return char.encode("unicode_escape").decode("ascii")


class TerminalStream(io.TextIOBase):
    """A terminal's text stream that escapes what is written to it.

    It has no ``buffer``, through which bytes could pass unchanged. Rich writes to
    ``rich_proxied_file``, which lets rich's own codes pass; text for rich is escaped before it is
    styled, by the console of `terminal_console`.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the terminal."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What happens to characters that the terminal cannot encode."""
        return self._stream.errors

    @property
    def rich_proxied_file(self) -> TerminalStream:
        """The stream that rich's consoles write to."""
        return _RichStream(self._stream)

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """File descriptor of the terminal."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Always true."""
        return True

    def flush(self) -> None:
        """Write what is buffered to the terminal."""
        self._stream.flush()

    def write(self, text: str) -> int:
        """Write ``text`` with its control characters as escapes.

        The bars of tqdm, which transformers and huggingface_hub draw, may return to the start of
        their line and move between lines.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._stream.write(self._escape(text))
        return len(text)

    def _escape(self, text: str) -> str:
        if not _TQDM_BAR.fullmatch(text):
            return visible(text.replace("\r\n", "\n"))
        return "\r" + visible(text[1:]) if text.startswith("\r") else text


class _RichStream(TerminalStream):
    """The same for text that rich made: its own codes pass."""

    def _escape(self, text: str) -> str:
        parts = _RICH_CODES.split(text)  # text, code, text, code, ..., text
        parts[::2] = map(visible, parts[::2])
        return "".join(parts)


def guard_terminals() -> None:
    """Put a `TerminalStream` over standard output and standard error where they are terminals."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream.isatty() and not isinstance(stream, TerminalStream):
            setattr(sys, name, TerminalStream(stream))


@contextmanager
def guarded_redirection() -> Iterator[None]:
    """Escape what is printed while rich's progress bar redirects the standard streams.

    Rich reads the codes in redirected text and repeats them as its own.
    """
    redirected = sys.stdout, sys.stderr
    guard_terminals()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = redirected


def terminal_console(file: IO[str]) -> Console:
    """A rich console that makes texts `visible` before it styles them, where it is a terminal."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class TerminalConsole(Console):
        def render_str(self, text: str, **arguments: Any) -> Text:
            # Before the width of a table's cell is measured.
            return super().render_str(visible(text) if self.is_terminal else text, **arguments)

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control or not self.is_terminal:
                    yield segment
                else:
                    yield Segment(visible(segment.text), segment.style)

    return TerminalConsole(file=file)
