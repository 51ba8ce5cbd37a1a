"""Prompts in a plain text file, one a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from unprompt.errors import TableError
from unprompt.files import atomic_open


def read_lines(path: str | Path) -> list[str]:
    """Prompts of a UTF-8 file, one a line, blank lines left out.

    Raises:
        TableError: the file is not there, or is not UTF-8 (names the line).
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TableError(f"{path}, line {line}: not UTF-8; convert the file first") from error
    return [line.strip("\r") for line in text.split("\n") if line.strip()]


def stream_lines(path: str | Path) -> Iterator[str]:
    """As `read_lines`, one after the other, for files larger than memory.

    Raises:
        TableError: the file is not there, or is not UTF-8 (names the line).
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise TableError(
                        f"{path}, line {number}: not UTF-8; convert the file first"
                    ) from error
                if text.strip():
                    yield text.strip("\r\n")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from error


def write_lines(prompts: Iterable[str], path: str | Path) -> None:
    """Write prompts one a line, whole or not at all; line breaks inside one become spaces.

    Raises:
        OutputError: the place cannot be written.
    """
    with atomic_open(path) as file:
        for prompt in prompts:
            file.write(re.sub(r"\r?\n|\r", " ", prompt) + "\n")
