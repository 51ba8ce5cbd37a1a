"""Small pictures in terminals that can show them, by kitty's protocol or iTerm2's."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import IO

from unprompt.errors import UnreadableImageError
from unprompt.images import open_rgb
from unprompt.predicting.answer import Answer

_ROWS = 6
"""Height in lines of text."""
_SIZE = 240, 120
"""Most pixels across and down: six lines on a dense display."""
_CHUNK = 4096
"""Most base64 characters that kitty takes in one sequence."""

_KONSOLE = "220400"
"""The first Konsole, 22.04, that shows pictures, as its six digits."""

Draw = Callable[[bytes], str]
"""From a PNG file to what makes a terminal show it."""


def drawing(environment: Mapping[str, str]) -> Draw | None:
    """How the terminal shows pictures, told by its environment variables; None where it cannot.

    Only what terminals say of themselves is trusted. Inside tmux and screen the sequences do not
    arrive, and sixel is told by no variable.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or term.startswith(("screen", "tmux", "dumb")):
        return None
    if term in ("xterm-kitty", "xterm-ghostty") or "KITTY_WINDOW_ID" in environment:
        return _kitty
    if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
        return _iterm2
    if environment.get("KONSOLE_VERSION", "") >= _KONSOLE:
        return _iterm2
    return None


def with_thumbnails(answers: Iterable[Answer], file: IO[str], draw: Draw) -> Iterator[Answer]:
    """Show the image of each answer that has a prompt, then hand it on to be written."""
    for answer in answers:
        if answer.prompt is not None:
            # Where its metadata can be read and its pixels cannot, the answer stands alone.
            with suppress(UnreadableImageError):
                file.write(draw(_png(answer.file)) + "\n")
        yield answer


def _png(path: str) -> bytes:
    picture = open_rgb(path, at_least=min(_SIZE))
    picture.thumbnail(_SIZE)
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def _kitty(png: bytes) -> str:
    """The terminal graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol).

    ``a=T`` shows at once, ``f=100`` is PNG, ``q=2`` asks for no reply, ``m=1`` says more follows.
    """
    text = base64.b64encode(png).decode()
    parts = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    sequences = []
    for number, part in enumerate(parts):
        keys = f"a=T,f=100,q=2,r={_ROWS}," if number == 0 else ""
        sequences.append(f"\x1b_G{keys}m={int(number < len(parts) - 1)};{part}\x1b\\")
    return "".join(sequences)


def _iterm2(png: bytes) -> str:
    """The inline images protocol (iterm2.com/documentation-images.html)."""
    text = base64.b64encode(png).decode()
    return f"\x1b]1337;File=inline=1;size={len(png)};height={_ROWS}:{text}\x07"
