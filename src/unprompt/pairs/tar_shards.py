"""Image paths in tables, and images inside tar shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Set
from functools import lru_cache
from pathlib import Path, PurePosixPath


def split_member(file: str) -> tuple[str, str] | None:
    """``folder/shard.tar/key.ext`` as ``(folder/shard.tar, key.ext)``; None for a plain path."""
    shard, found, member = file.partition(".tar/")
    return (shard + ".tar", member) if found else None


def refusal(file: str) -> str | None:
    """Why the path of an image must not be opened, or None if it stays in its folder."""
    path = PurePosixPath(file.replace("\\", "/"))
    if not file or path == PurePosixPath("."):
        return "is empty"
    if path.is_absolute() or (len(file) > 1 and file[1] == ":") or "\0" in file:
        return "must be relative to the table's folder; refused"
    if ".." in path.parts:
        return "leaves the table's folder; refused"
    return None


def read_member(shard: Path, member: str) -> bytes:
    """Bytes of one member of a tar shard, read by its offset.

    The first use of a shard reads all its headers; the offsets of the last 64 shards are kept.

    Raises:
        OSError: the shard does not exist, or is cut off inside the member.
        KeyError: the shard has no such member, or is not a tar file.
    """
    status = shard.stat()
    offset, size = _index(shard, status.st_mtime_ns, status.st_size)[member]
    with shard.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise OSError(f"{shard} is cut off inside {member}")
    return content


def member_names(shard: Path) -> Set[str]:
    """Names of the members of a tar shard; empty if it does not exist or is not a tar file."""
    try:
        status = shard.stat()
        return _index(shard, status.st_mtime_ns, status.st_size).keys()
    except (OSError, KeyError):
        return frozenset()


def add_sample(tar: tarfile.TarFile, key: str, files: Mapping[str, bytes]) -> None:
    """Append a WebDataset sample, given as files by suffix; equal samples give equal bytes."""
    for suffix, content in files.items():
        info = tarfile.TarInfo(key + suffix)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


@lru_cache(maxsize=64)
def _index(shard: Path, modified: int, size: int) -> dict[str, tuple[int, int]]:
    try:
        with tarfile.open(shard, "r:") as tar:
            return {m.name: (m.offset_data, m.size) for m in tar if m.isfile()}
    except tarfile.TarError as error:
        raise KeyError(f"{shard} is not a readable tar file: {error}") from error
