"""Files that let interrupted work continue: a journal of finished items, and the settings.

A journal is a file of JSON lines, one for each finished item. If a killed process leaves an
incomplete last line, readers skip it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from unprompt.errors import OutputError, UnpromptError
from unprompt.files import write_json


def to_line(entry: Mapping[str, Any]) -> bytes:
    """One entry as a line of a journal."""
    return json.dumps(entry).encode() + b"\n"


def append(journal: Path, lines: Iterable[bytes]) -> None:
    """Append lines made by `to_line` to a journal.

    Raises:
        OutputError: the journal cannot be written.
    """
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed process left an incomplete line
                    file.write(b"\n")
            for line in lines:
                file.write(line)
    except OSError as error:
        raise OutputError(f"cannot write {journal}: {error.strerror or error}") from error


def entries(journal: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the place in the file (for `entry_at`) and the content of each complete entry.

    A journal that does not exist has no entries.
    """
    if not journal.exists():
        return
    place = 0
    with journal.open("rb") as file:
        for line in file:
            if (entry := _parse(line)) is not None:
                yield place, entry
            place += len(line)


def entry_at(file: IO[bytes], place: int) -> dict[str, Any]:
    """The entry at a place of an open journal.

    Raises:
        OutputError: there is no entry at this place, because the file has changed.
    """
    file.seek(place)
    entry = _parse(file.readline())
    if entry is None:
        raise OutputError(f"{file.name} changed while it was read; run the same command again")
    return entry


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and line.endswith(b"\n") else None


def has_settings(path: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a file holds these settings; False if there is no such file.

    Args:
        path: the file of `write_settings`, in the output folder.
        settings: the settings of this call, ready for JSON.

    Raises:
        UnpromptError: the file holds other settings, or is not JSON.
    """
    if not path.exists():
        return False
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnpromptError(f"{path}: not JSON ({error}); choose another folder") from error
    if other := [
        f"{key}: {before.get(key)} there, {settings.get(key)} now"
        for key in sorted(settings.keys() | before.keys())
        if settings.get(key) != before.get(key)
    ]:
        raise UnpromptError(
            f"{path.parent} was made with other settings ({', '.join(other)}); choose another "
            "folder"
        )
    return True


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write settings for later calls of `has_settings`.

    Raises:
        OutputError: the file cannot be written.
    """
    write_json(path, dict(sorted(settings.items())))
