"""A pairs table made from a folder of images with prompts inside the files or beside them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from unprompt.collecting import journal
from unprompt.errors import UnreadableImageError
from unprompt.images import VIDEO_SUFFIXES, find_images
from unprompt.pairs.table import Pair, PairsWriter
from unprompt.parallel import by_processes
from unprompt.progress import track
from unprompt.reading import Reading, read

_INT64, _INT32 = (1 << 63) - 1, (1 << 31) - 1
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Harvest:
    """Result of a harvest.

    Attributes:
        pairs: rows of the table.
        generators: rows per generator; ``unknown`` if the file does not name its generator.
        duplicates: images left out because an earlier image has the same bytes.
        without_prompt: readable images without a prompt.
        unreadable: file and reason of each image that could not be read.
        resumed: images that an interrupted earlier call had read.
    """

    pairs: int
    generators: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    without_prompt: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()
    resumed: int = 0

    def __str__(self) -> str:
        lines = [f"{self.pairs} pairs written"]
        lines += [f"  {count:>8}  {name}" for name, count in self.generators.items()]
        lines.append(
            f"{self.duplicates} duplicates, {self.without_prompt} images without a prompt, "
            f"{len(self.unreadable)} images could not be read"
        )
        lines += [f"  {file}: {reason}" for file, reason in self.unreadable]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Entry:
    """The result for one image, as the journal stores it."""

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
    """Read every image of a folder tree, and write the ones with prompts to a pairs table.

    A journal beside ``output`` keeps the results until the table is written, so the same call
    continues after an interruption. It reads changed files again. If images have the same bytes,
    only the first by path is written.

    Args:
        folder: searched with its sub-folders, except hidden ones.
        output: the Parquet file to write; the images stay where they are.
        captions: also use plain ``.txt`` files beside images as prompts, marked as not exact.
        workers: processes, as in `unprompt.parallel.by_processes`.

    Raises:
        UnreadableImageError: ``folder`` is not a folder, or cannot be listed.
        OutputError: the table or its journal cannot be written.
    """
    folder, output = Path(folder), Path(output)
    if not folder.is_dir():
        raise UnreadableImageError(f"{folder}: no such folder")
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UnreadableImageError(f"{folder}: cannot be listed ({error.strerror})") from error
    writer = PairsWriter(output, folder)  # refuses a wrong name before images are read
    log = output.with_name(output.name + ".harvest.jsonl")
    resumed = _read_all(folder, log, captions, workers)
    result = _write(folder, writer, log, resumed)
    log.unlink()
    return result


def _files(folder: Path) -> Iterator[Path]:
    found = find_images([folder], recursive=True)
    return (path for path in found if path.suffix.lower() not in VIDEO_SUFFIXES)


def _read_all(folder: Path, log: Path, captions: bool, workers: int | None) -> int:
    """Append a journal entry for every file that has none; return the number that had one."""
    known = {e["file"]: (e["size"], e["modified"]) for _, e in journal.entries(log)}
    resumed = 0

    def missing() -> Iterator[Path]:
        nonlocal resumed
        resumed = 0  # the progress bar iterates too, so start again
        for path in _files(folder):
            state = _state(path)
            if state is None or known.get(path.relative_to(folder).as_posix()) != state:
                yield path
            else:
                resumed += 1

    task = partial(_read_one, folder=folder, captions=captions)
    lines = by_processes(task, missing(), workers)
    journal.append(log, track(lines, "Harvesting", lambda: sum(1 for _ in missing())))
    return resumed


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _read_one(path: Path, folder: Path, captions: bool) -> bytes:
    """The journal's line for one file."""
    return journal.to_line(asdict(_entry(path, folder, captions)))


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
    """Width and height of an image; None if Pillow cannot tell."""
    try:
        with Image.open(path) as image:
            return image.size
    # Pillow raises these on damaged headers; the prompt is still good.
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
        exact=reading.exact and reading.certain,
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
    """None for numbers that a column cannot hold, such as ComfyUI's unsigned 64-bit seeds."""
    return value if value is not None and -limit <= value <= limit else None


def _write(folder: Path, writer: PairsWriter, log: Path, resumed: int) -> Harvest:
    """Write the table in the order of the files, each distinct image once."""
    # Hold only the place of the last entry of each file, to save memory.
    places = {entry["file"]: place for place, entry in journal.entries(log)}
    generators: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    without_prompt = duplicates = 0
    seen: set[str] = set()

    def pairs(found: Iterable[_Entry]) -> Iterator[Pair]:
        nonlocal without_prompt, duplicates
        for entry in found:
            if entry.error is not None:
                unreadable.append((entry.file, entry.error))
            elif entry.pair is None:
                without_prompt += 1
            elif entry.pair["sha256"] in seen:
                duplicates += 1
            else:
                seen.add(entry.pair["sha256"])
                generators[entry.pair.get("generator") or UNKNOWN] += 1
                yield Pair(**entry.pair)

    with log.open("rb") as file, writer:
        names = (path.relative_to(folder).as_posix() for path in _files(folder))
        found = (_Entry(**journal.entry_at(file, places[name])) for name in names if name in places)
        rows = pairs(found)
        while batch := list(islice(rows, 4096)):
            writer.write(batch)
    return Harvest(
        pairs=writer.rows,
        generators=dict(generators.most_common()),
        duplicates=duplicates,
        without_prompt=without_prompt,
        unreadable=tuple(unreadable),
        resumed=resumed,
    )
