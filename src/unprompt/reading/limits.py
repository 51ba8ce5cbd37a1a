"""How much text is read from one file, and what was refused or damaged on the way."""

from __future__ import annotations

MAX_TEXT = 8 << 20
"""Most bytes of one text, compressed or not; ComfyUI workflows stay below 2 MB."""
MAX_TOTAL = 16 << 20
"""Most bytes of all texts of a file together."""


class Limits:
    """The text that may still be read from a file, and the problems met so far."""

    __slots__ = ("cut_off", "left", "problems")

    def __init__(self) -> None:
        self.left = MAX_TOTAL
        self.problems: list[str] = []
        self.cut_off: OSError | None = None
        """The error of the file system that ended the reading of the file."""

    def allows(self, size: int, *what: str) -> bool:
        """Whether ``size`` more bytes may be read; if not, a problem is noted."""
        if size > MAX_TEXT or size > self.left:
            self.note(f"{' '.join(what)}: more than {MAX_TEXT >> 20} MiB of text; skipped")
            return False
        self.left -= size
        return True

    def note(self, problem: str) -> None:
        """Keep one line about a damaged or refused part; at most 20 are kept."""
        if len(self.problems) < 20:
            self.problems.append(problem)

    def stop(self, error: OSError) -> None:
        """Note that the file system failed, so that the rest of the file is unknown."""
        self.cut_off = error
        self.note(f"the file cannot be read to its end ({error})")
