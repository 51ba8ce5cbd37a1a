"""DiffusionDB's zip parts: images of Stable Diffusion with their prompts and settings.

Each zip part holds 1,000 images, and a JSON file ``{image: {p, se, c, st, sa}}`` with prompt, seed,
guidance, steps and sampler of each (https://github.com/poloclub/diffusiondb, README).
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any

from unprompt.collecting.download import TABLE, Download, is_temporary
from unprompt.collecting.urls.preset_list import Preset
from unprompt.errors import TableError, UnpromptError
from unprompt.files import atomic_folder
from unprompt.images import IMAGE_SUFFIXES
from unprompt.pairs.table import Pair, PairsWriter
from unprompt.progress import track

IMAGES_PER_PART = 1000
_WAIT = 60


def download_parts(preset: Preset, folder: str | Path, *, limit: int | None = None) -> Download:
    """Fetch the zip parts of a data set one by one, and write the pairs table of their images.

    A part is unpacked whole or not at all, so the next call fetches the missing parts.

    Args:
        preset: its ``list`` is the address of a part, with ``{}`` for the number of the part.
        folder: folder of the parts (``part-000001/``, ...) and of ``pairs.parquet``.
        limit: fetch at most this many pairs.

    Raises:
        UnpromptError: the limit is below 1.
        TableError: a part does not have DiffusionDB's format.
        OutputError: the folder cannot be written.
    """
    folder = Path(folder)
    wanted = preset.pairs if limit is None else min(limit, preset.pairs)
    if wanted < 1:
        raise UnpromptError(f"cannot download {limit} pairs; ask for 1 or more")
    numbers = range(1, -(-wanted // IMAGES_PER_PART) + 1)
    missing = [number for number in numbers if not _place(folder, number).is_dir()]
    sizes = {n: min(IMAGES_PER_PART, wanted - IMAGES_PER_PART * (n - 1)) for n in missing}
    reasons: Counter[str] = Counter()
    for number in track(missing, "downloading parts"):
        try:
            _fetch(preset.list.format(number), _place(folder, number))
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reasons[str(error)] += sizes[number]
        except (zipfile.BadZipFile, zlib.error) as error:
            reasons[f"cut off or not a zip file ({error})"] += sizes[number]
    with PairsWriter(folder / TABLE) as writer:
        rows = islice(_pairs(folder, numbers, preset, reasons), wanted)
        while batch := list(islice(rows, IMAGES_PER_PART)):
            writer.write(batch)
    temporary = sum(count for reason, count in reasons.items() if is_temporary(reason))
    tried = sum(sizes.values())
    return Download(folder / TABLE, wanted, writer.rows, tried, dict(reasons), temporary)


def _place(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06}"


def _fetch(address: str, place: Path) -> None:
    """Fetch one archive and unpack its images and its JSON file, flat."""
    with TemporaryFile() as archive:
        with urllib.request.urlopen(address, timeout=_WAIT) as answer:  # noqa: S310 -- a preset's
            shutil.copyfileobj(answer, archive)
        with zipfile.ZipFile(archive) as members, atomic_folder(place) as folder:
            for member in members.infolist():
                path = PurePosixPath(member.filename)
                # Ignore folders in the name, so that no file is written outside this folder.
                if path.suffix.lower() in (*IMAGE_SUFFIXES, ".json") and not member.is_dir():
                    with members.open(member) as source, (folder / path.name).open("wb") as file:
                        shutil.copyfileobj(source, file)


def _pairs(folder: Path, numbers: range, preset: Preset, reasons: Counter[str]) -> Iterator[Pair]:
    for place in (_place(folder, number) for number in numbers):
        if not place.is_dir():
            continue
        for name, stated in _settings(place / f"{place.name}.json").items():
            if not (place / name).exists() or not str(stated.get("p", "")).strip():
                reasons["the image is missing from its part, or the prompt is empty"] += 1
                continue
            yield Pair(
                id=PurePosixPath(name).stem,
                file=f"{place.name}/{name}",
                prompt=stated["p"],
                generator="Stable Diffusion",
                source="DiffusionDB",
                licence=preset.licence,
                seed=stated.get("se"),
                steps=stated.get("st"),
                sampler=stated.get("sa"),
                guidance=stated.get("c"),
            )


def _settings(path: Path) -> dict[str, dict[str, Any]]:
    try:
        settings: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(
            f"{path}: not DiffusionDB's list of prompts ({error}); remove the folder "
            f"{path.parent} and run the same command again"
        ) from error
    return settings
