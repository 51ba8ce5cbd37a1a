"""Writing of whole files and folders, output formats by suffix, and the cache folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from unprompt.errors import OutputError

SUFFIX_FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "text"}
"""Format of an output file by its suffix."""


def cache_dir() -> Path:
    """Cache folder: ``$UNPROMPT_CACHE``, else ``unprompt`` in the user's cache folder."""
    if stated := os.environ.get("UNPROMPT_CACHE"):
        return Path(stated)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "unprompt"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` when the block succeeds.

    The temporary file has the suffix of ``path``, because writers choose formats by it. If the
    block raises, the temporary file is removed and an old file at ``path`` does not change.

    Raises:
        OutputError: the folder cannot be created or written, the disk is full, or ``path`` is a
            folder or a device. An OSError about another file is raised unchanged.
    """
    path = Path(path)
    # The user root could replace /dev/null, which would break the computer.
    if path.exists() and not path.is_file():
        raise OutputError(f"cannot write {path}: it exists and is not a file; name another")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=f".tmp{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None and error.filename not in (None, str(temporary)):
            raise
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; the old file, if any, is intact"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_open(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces ``path`` when the block succeeds.

    The mode is ``w`` (text in UTF-8) or ``wb``.

    Raises:
        OutputError: see `atomic_path`.
    """
    encoding = None if "b" in mode else "utf-8"
    with atomic_path(path) as temporary, temporary.open(mode, encoding=encoding) as file:
        yield file


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, indented by two spaces, whole or not at all.

    Raises:
        OutputError: see `atomic_path`.
    """
    with atomic_open(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


@contextmanager
def output_stream(path: str | Path | None) -> Iterator[IO[str]]:
    """Yield standard output if ``path`` is None, else the file of `atomic_open`."""
    if path is None:
        yield sys.stdout
    else:
        with atomic_open(path) as file:
            yield file


def format_of(
    path: str | Path | None, stated: str | None, formats: Mapping[str, str] = SUFFIX_FORMATS
) -> str:
    """The format to write: the stated one, else that of the path's suffix.

    The default for standard output and for a path without a suffix is text.

    Raises:
        OutputError: no format is stated, and the suffix is unknown.
    """
    suffix = "" if path is None else Path(path).suffix.lower()
    if stated is not None or not suffix:
        return stated or "text"
    if suffix not in formats:
        raise OutputError(
            f"{path}: its suffix names no format; use {', '.join(formats)}, or state --format"
        )
    return formats[suffix]


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new folder beside ``path`` that becomes ``path`` when the block succeeds.

    The partial folder of a killed run is removed first.

    Raises:
        OutputError: ``path`` exists and is not an empty folder, or cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(
                f"cannot write {path}: it exists and is not empty; name another place"
            )
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
