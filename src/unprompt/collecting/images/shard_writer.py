"""Images packed into tar shards (WebDataset) as they are made."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from unprompt.collecting.images.journal import Row
from unprompt.errors import UnpromptError
from unprompt.files import atomic_path
from unprompt.pairs.tar_shards import add_sample, member_names, read_member, split_member


def shard_file(number: int) -> str:
    """Where the n-th shard, from 0, lies in its folder."""
    return f"shards/{number:05}.tar"


def pack(folder: Path, number: int, rows: Sequence[Row]) -> list[Row]:
    """Write one shard of the images of rows, in their order, unless it holds them all already.

    A sample is the image as it is, its prompt (``.txt``) and its row (``.json``). The loose files
    stay; they can go when the new rows are noted.

    Args:
        folder: of the pairs table.
        number: of the shard.
        rows: of images that lie loose or in this very shard.

    Returns:
        The rows, with ``file`` in the shard; none where nothing had to be done.
    """
    shard = shard_file(number)
    if all(row["file"].startswith(f"{shard}/") for row in rows):
        return []
    packed = [{**row, "file": f"{shard}/{PurePosixPath(row['file']).name}"} for row in rows]
    with atomic_path(folder / shard) as temporary, tarfile.open(temporary, "w") as tar:
        for before, row in zip(rows, packed, strict=True):
            stated = {name: value for name, value in row.items() if value is not None}
            del stated["file"]
            files = {
                PurePosixPath(row["file"]).suffix: _content(folder, before["file"]),
                ".txt": row["prompt"].encode(),
                ".json": json.dumps(stated, ensure_ascii=False).encode(),
            }
            add_sample(tar, row["id"], files)
    return packed


def check_order(folder: Path, shards: Sequence[Collection[str]], done: Mapping[str, Row]) -> None:
    """Check that shards which are there can stay: prompts may be added at the end only.

    Args:
        folder: of the pairs table.
        shards: ids of the pairs of each shard.
        done: rows of images that are there, by id.

    Raises:
        UnpromptError: an image lies in another shard, or a shard to be written again holds others.
    """
    for number, ids in enumerate(shards):
        shard = shard_file(number)
        elsewhere = any(
            id in done and (member := split_member(done[id]["file"])) and member[0] != shard
            for id in ids
        )
        incomplete = any(id not in done or not split_member(done[id]["file"]) for id in ids)
        if elsewhere or (incomplete and _keys(folder / shard) - set(ids)):
            raise UnpromptError(
                f"{folder} holds shards of other prompts, or of these in another order; prompts "
                "can be added at the end of the list only: choose another folder"
            )


def loose(row: Mapping[str, Any]) -> bool:
    """Whether an image lies in a file of its own."""
    return split_member(row["file"]) is None


def _keys(shard: Path) -> set[str]:
    return {name.partition(".")[0] for name in member_names(shard)}


def _content(folder: Path, file: str) -> bytes:
    if member := split_member(file):
        return read_member(folder / member[0], member[1])
    return (folder / file).read_bytes()
