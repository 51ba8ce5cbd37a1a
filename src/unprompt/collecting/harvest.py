"""A pairs table from a folder of images that carry their prompts, or have them beside them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from PIL import Image

from unprompt.errors import OutputError, UnreadableImageError
from unprompt.images import find_images
from unprompt.pairs.table import Pair, PairsWriter
from unprompt.parallel import by_processes
from unprompt.progress import track
from unprompt.reading import Reading, read

_INT64, _INT32 = (1 << 63) - 1, (1 << 31) - 1
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Harvest:
    """What a harvest found.

    Attributes:
        pairs: rows of the table.
        generators: rows per generator; ``unknown`` where the file does not name it.
        duplicates: images left out because their bytes are those of an earlier one.
        without_prompt: readable images that state no prompt.
        unreadable: file and reason of each image that could not be read.
        resumed: images whose result an earlier, interrupted call had left.
    """

    pairs: int
    generators: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    without_prompt: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    """The result for one image, as the journal keeps it."""

    file: str
    size: int = 0
    modified: int = 0
    pair: dict[str, Any] | None = None
    error: str | None = None


def harvest(
    folder: str | Path,
    output: str | Path,
    captions: bool = True,
    workers: int | None = None,
) -> Harvest:
    """Read every image of a folder tree and write those with prompts as a pairs table.

    Results are kept in a journal beside ``output`` until the table is whole, so that the same
    call after an interruption goes on where it was; files changed since are read again. Of
    images with the same bytes the first by path is kept.

    Args:
        folder: searched with its sub-folders, hidden ones excepted.
        output: the Parquet file to write; its images stay where they are.
        captions: also take plain ``.txt`` files beside images for prompts, as not exact.
        workers: processes, as `unprompt.parallel.by_processes`.

    Raises:
        UnreadableImageError: ``folder`` is not a folder.
        OutputError: the table or its journal cannot be written.
    """
    folder, output = Path(folder), Path(output)
    if not folder.is_dir():
        raise UnreadableImageError(f"{folder}: no such folder")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UnreadableImageError(f"{folder}: cannot be listed ({error.strerror})") from error
    writer = PairsWriter(output, folder)  # now: a wrong name is told before everything is read
    journal = output.with_name(output.name + ".harvest.jsonl")
    try:
        resumed = _read_all(folder, journal, captions, workers)
    except OSError as error:
        raise OutputError(f"cannot write {journal}: {error.strerror or error}") from error
    result = _write(folder, writer, journal, resumed)
    journal.unlink(missing_ok=True)
    return result


def _files(folder: Path) -> Iterator[Path]:
    return find_images([folder], recursive=True)


def _read_all(folder: Path, journal: Path, captions: bool, workers: int | None) -> int:
    """Append a journal entry for every file that has none, and tell how many had one."""
    known = _read_journal(journal)
    resumed = 0

    def missing() -> Iterator[Path]:
        nonlocal resumed
        resumed = 0  # anew: it is walked for the bar's total too
        for path in _files(folder):
            state = _state(path)
            if state is None or known.get(path.relative_to(folder).as_posix()) != state:
                yield path
            else:
                resumed += 1

    journal.parent.mkdir(parents=True, exist_ok=True)
    task = partial(_read_one, folder=folder, captions=captions)
    with journal.open("a+b") as log:
        _end_line(log)
        lines = by_processes(task, missing(), workers)
        for line in track(lines, "Harvesting", lambda: sum(1 for _ in missing())):
            log.write(line)
    return resumed


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _read_one(path: Path, folder: Path, captions: bool) -> bytes:
    """The journal's line for one file."""
    return json.dumps(asdict(_entry(path, folder, captions))).encode() + b"\n"


def _entry(path: Path, folder: Path, captions: bool) -> _Entry:
    file = path.relative_to(folder).as_posix()
    size, modified = _state(path) or (0, 0)
    try:
        reading = read(path, captions=captions)
        if reading is None or not (reading.prompt or "").strip():
            return _Entry(file, size, modified)
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        width, height = _image_size(path)
        return _Entry(file, size, modified, _row(reading, file, digest, width, height))
    except (UnreadableImageError, OSError) as error:
        return _Entry(file, size, modified, error=str(error).removeprefix(f"{path}: "))


def _image_size(path: Path) -> tuple[int | None, int | None]:
    """Size of the stored image, None where Pillow does not know the format."""
    try:
        with Image.open(path) as image:
            return image.size
    # Pillow's parsers raise many kinds of exception on damaged headers; the prompt still counts.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError):
        return None, None
    except Image.DecompressionBombError:
        return None, None


def _row(
    reading: Reading, file: str, digest: str, width: int | None, height: int | None
) -> dict[str, Any]:
    settings = reading.settings
    pair = Pair(
        id=digest[:32],
        file=file,
        prompt=reading.prompt or "",
        negative_prompt=reading.negative_prompt,
        generator=reading.generator,
        source=reading.where[0] if reading.where else None,
        exact=reading.exact,
        width=width,
        height=height,
        seed=_within(settings.seed, _INT64),
        steps=_within(settings.steps, _INT32),
        sampler=settings.sampler,
        guidance=settings.guidance,
        sha256=digest,
    )
    return {key: value for key, value in asdict(pair).items() if value is not None}


def _within(value: int | None, limit: int) -> int | None:
    """Whole numbers that a column cannot hold are left out: ComfyUI draws 64-bit unsigned seeds."""
    return value if value is not None and -limit <= value <= limit else None


def _write(folder: Path, writer: PairsWriter, journal: Path, resumed: int) -> Harvest:
    """Write the table in the order of the files, each distinct image once."""
    places = _last_entries(journal)
    generators: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    seen: set[str] = set()

    def pairs(entries: Iterable[_Entry]) -> Iterator[Pair]:
        for entry in entries:
            if entry.error is not None:
                unreadable.append((entry.file, entry.error))
            elif entry.pair is None:
                counts["without"] += 1
            elif entry.pair["sha256"] in seen:
                counts["duplicates"] += 1
            else:
                seen.add(entry.pair["sha256"])
                generators[entry.pair.get("generator") or UNKNOWN] += 1
                yield Pair(**entry.pair)

    with journal.open("rb") as log, writer:
        names = (path.relative_to(folder).as_posix() for path in _files(folder))
        rows = pairs(_entry_at(log, places[name]) for name in names if name in places)
        while batch := list(islice(rows, 4096)):
            writer.write(batch)
    return Harvest(
        pairs=writer.rows,
        generators=dict(generators.most_common()),
        duplicates=counts["duplicates"],
        without_prompt=counts["without"],
        unreadable=tuple(unreadable),
        resumed=resumed,
    )


def _read_journal(journal: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the files that the journal has a result for."""
    if not journal.exists():
        return {}
    with journal.open("rb") as log:
        entries = (_parse(line) for line in log)
        return {entry.file: (entry.size, entry.modified) for entry in entries if entry}


def _last_entries(journal: Path) -> dict[str, int]:
    """Where in the journal the last entry of each file begins."""
    places, at = {}, 0
    with journal.open("rb") as log:
        for line in log:
            if entry := _parse(line):
                places[entry.file] = at
            at += len(line)
    return places


def _entry_at(log: IO[bytes], at: int) -> _Entry:
    log.seek(at)
    entry = _parse(log.readline())
    if entry is None:
        raise OutputError("the journal of this harvest changed while it was read; run it again")
    return entry


def _parse(line: bytes) -> _Entry | None:
    """One journal line; the last one may have been cut by an interruption."""
    try:
        return _Entry(**json.loads(line))
    except (ValueError, TypeError):
        return None


def _end_line(log: IO[bytes]) -> None:
    """Close a line that an interruption cut, so that the next one stands alone."""
    if log.seek(0, os.SEEK_END):
        log.seek(-1, os.SEEK_END)
        if log.read(1) != b"\n":
            log.write(b"\n")
