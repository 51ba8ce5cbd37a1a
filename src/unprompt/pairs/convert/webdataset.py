"""WebDataset tar shards as img2dataset writes them: ``key.jpg``, ``key.txt``, ``key.json``."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from unprompt.errors import TableError
from unprompt.files import atomic_folder
from unprompt.images import IMAGE_SUFFIXES
from unprompt.pairs.convert.format import ALL, Format, batches_of, rows_with_images
from unprompt.pairs.table import PairsTable
from unprompt.pairs.tar_shards import add_sample

SAMPLES_PER_SHARD = 10_000
"""img2dataset's default ``number_sample_per_shard``."""

_HOLDS = ALL - {"embedding", "file"}


def matches(path: Path) -> bool:
    """A tar file, or a folder with tar files."""
    return path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))


def read(path: Path, images: Path) -> Iterator[PairsTable]:
    """Pairs of one shard or a folder of shards; the images stay inside.

    The prompt is the ``.txt`` of a sample, else ``prompt`` or ``caption`` of its ``.json``.
    """
    folder, shards = (path, sorted(path.glob("*.tar"))) if path.is_dir() else (path.parent, [path])
    rows = (row for shard in shards for row in _samples(shard))
    yield from batches_of(rows, folder, str(path))


def _samples(shard: Path) -> Iterator[dict[str, Any]]:
    key, sample = "", dict[str, Any]()
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                # WebDataset's rule: the key ends at the first dot of the file name.
                path = PurePosixPath(member.name)
                stem, _, suffix = path.name.partition(".")
                if (found := str(path.parent / stem)) != key:
                    if "file" in sample:
                        yield _pair(key, sample, shard)
                    key, sample = found, {}
                if f".{suffix}".lower() in IMAGE_SUFFIXES:
                    sample["file"] = f"{shard.name}/{member.name}"
                elif suffix in ("txt", "json") and (content := tar.extractfile(member)):
                    sample[suffix] = content.read()
    except tarfile.TarError as error:
        raise TableError(f"{shard}: not a readable tar file ({error})") from error
    if "file" in sample:
        yield _pair(key, sample, shard)


def _pair(key: str, sample: dict[str, Any], shard: Path) -> dict[str, Any]:
    try:
        stated = json.loads(sample.get("json", b"{}"))
        prompt = sample["txt"].decode("utf-8") if "txt" in sample else None
    except ValueError as error:
        raise TableError(f"{shard}, sample {key}: {error}") from error
    if prompt is None:
        prompt = stated.get("prompt") or stated.get("caption") or ""
    held = {name: stated[name] for name in ALL - {"*", "embedding"} if name in stated}
    sides = {name: stated.get(name) for name in ("width", "height")}
    further = stated.get("unprompt", {})
    return {"id": key, **sides, **held, **further, "file": sample["file"], "prompt": prompt}


def write(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Write a folder of shards of 10,000 samples; rows with unreadable images fail."""
    samples = (sample for table in batches for sample in _samples_of(table, failed))
    with atomic_folder(path) as folder:
        shard, tar = -1, None
        for number, (_, row, content) in enumerate(samples):
            if number // SAMPLES_PER_SHARD != shard:
                if tar is not None:
                    tar.close()
                shard = number // SAMPLES_PER_SHARD
                tar = tarfile.open(folder / f"{shard:05}.tar", "w")  # noqa: SIM115
            key = f"{shard:05}{number % SAMPLES_PER_SHARD:04}"
            suffix = PurePosixPath(row.pop("file")).suffix.lower() or ".jpg"
            known = {name: value for name, value in row.items() if name in ALL}
            further = {name: value for name, value in row.items() if name not in ALL}
            stated = {"key": key, "caption": row["prompt"], **known, "unprompt": further}
            assert tar is not None  # noqa: S101 - opened above
            files = {
                suffix: content,
                ".txt": row["prompt"].encode(),
                ".json": json.dumps(stated, ensure_ascii=False).encode(),
            }
            add_sample(tar, key, files)
        if tar is not None:
            tar.close()


def _samples_of(
    table: PairsTable, failed: list[str]
) -> Iterator[tuple[int, dict[str, Any], bytes]]:
    columns = [name for name in table.data.column_names if name != "embedding"]
    return rows_with_images(table, columns, failed)


FORMAT = Format("webdataset", _HOLDS, matches, read, write)
