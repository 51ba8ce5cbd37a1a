"""WebDataset tar shards as img2dataset lays them out: ``key.jpg``, ``key.txt``, ``key.json``."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from unprompt.errors import TableError
from unprompt.files import atomic_folder
from unprompt.images import IMAGE_SUFFIXES
from unprompt.pairs.convert.format import ALL, Format, batches_of, rows_of
from unprompt.pairs.table import PairsTable
from unprompt.pairs.tar_shards import add_sample

SAMPLES_PER_SHARD = 10_000
"""img2dataset's default ``number_sample_per_shard``."""

_HOLDS = ALL - {"embedding", "file"}


def matches(path: Path) -> bool:
    """A tar file, or a folder with tar files."""
    return path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar")))


def read(path: Path, images: Path) -> Iterator[PairsTable]:
    """Pairs of a folder of shards, or of one; the images stay in the shards.

    The prompt is the ``.txt`` of a sample, else ``caption`` or ``prompt`` of its ``.json``.
    """
    folder, shards = (path, sorted(path.glob("*.tar"))) if path.is_dir() else (path.parent, [path])
    rows = (row for shard in shards for row in _samples(shard))
    yield from batches_of(rows, folder, str(path))


def _samples(shard: Path) -> Iterator[dict[str, Any]]:
    key, parts = "", dict[str, Any]()
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                # WebDataset's rule: the key ends at the first dot of the file name.
                path = PurePosixPath(member.name)
                stem, _, suffix = path.name.partition(".")
                if (found := str(path.parent / stem)) != key:
                    if "file" in parts:
                        yield _pair(key, parts, shard)
                    key, parts = found, {}
                if f".{suffix}".lower() in IMAGE_SUFFIXES:
                    parts["file"] = f"{shard.name}/{member.name}"
                elif suffix in ("txt", "json") and (content := tar.extractfile(member)):
                    parts[suffix] = content.read()
    except tarfile.TarError as error:
        raise TableError(f"{shard}: not a readable tar file ({error})") from error
    if "file" in parts:
        yield _pair(key, parts, shard)


def _pair(key: str, parts: dict[str, Any], shard: Path) -> dict[str, Any]:
    try:
        stated = json.loads(parts.get("json", b"{}"))
        prompt = parts["txt"].decode("utf-8") if "txt" in parts else None
    except ValueError as error:
        raise TableError(f"{shard}, sample {key}: {error}") from error
    if prompt is None:
        prompt = stated.get("prompt") or stated.get("caption") or ""
    held = {name: stated[name] for name in ALL - {"*", "embedding"} if name in stated}
    sides = {name: stated.get(name) for name in ("width", "height")}
    further = stated.get("unprompt", {})
    return {"id": key, **sides, **held, **further, "file": parts["file"], "prompt": prompt}


def write(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Write a folder of shards of 10,000 samples; rows whose image cannot be read fail."""
    samples = (sample for table in batches for sample in _readable(table, failed))
    with atomic_folder(path) as folder:
        shard, tar = -1, None
        for number, (row, content) in enumerate(samples):
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


def _readable(table: PairsTable, failed: list[str]) -> Iterator[tuple[dict[str, Any], bytes]]:
    columns = [name for name in table.data.column_names if name != "embedding"]
    for number, row in enumerate(rows_of(table, columns)):
        try:
            yield row, table.read_bytes(number)
        except TableError as error:
            failed.append(str(error))


FORMAT = Format("webdataset", _HOLDS, matches, read, write)
