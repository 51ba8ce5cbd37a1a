"""The folder of a run of `unprompt.collecting.generate`: its images, tar shards and pairs table.

Each process records the row of every finished image in its own journal. When all images exist, the
table holds these rows, and the journals are removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from unprompt.collecting import journal
from unprompt.errors import UnpromptError
from unprompt.files import atomic_path
from unprompt.pairs.table import Pair, PairsWriter, stream
from unprompt.pairs.tar_shards import add_sample, member_names, read_member, split_member

Row = dict[str, Any]
"""The columns of a pair by name."""

TABLE = "pairs.parquet"
_JOURNAL = ".journal-{}.jsonl"
_ROWS_AT_ONCE = 1024


def record(folder: Path, process: int, rows: Sequence[Row]) -> None:
    """Append rows to the journal of the n-th process, from 0.

    Raises:
        OutputError: the journal cannot be written.
    """
    if rows:
        journal.append(folder / _JOURNAL.format(process), map(journal.to_line, rows))


def finished_rows(folder: Path, wanted: Collection[str]) -> dict[str, Row]:
    """Rows, by pair id, of the wanted images that exist: from the table and the journals."""

    def recorded() -> Iterator[Row]:
        if (folder / TABLE).exists():
            for batch in stream(folder / TABLE):
                yield from map(asdict, batch)
        for path in sorted(folder.glob(_JOURNAL.format("*"))):
            yield from (row for _, row in journal.entries(path))

    return {row["id"]: row for row in recorded() if row["id"] in wanted and _exists(folder, row)}


def write_table(folder: Path, ids: Sequence[str], failed: int, sharded: bool) -> None:
    """Write the table of all finished images, of every process, in the order of ``ids``.

    Once every image is finished or has failed, the journals are removed, and with shards also the
    folder of single files.
    """
    with _locked(folder):
        rows = finished_rows(folder, {*ids})
        pairs = (Pair(**rows[id]) for id in ids if id in rows)
        with PairsWriter(folder / TABLE) as writer:
            while batch := list(islice(pairs, _ROWS_AT_ONCE)):
                writer.write(batch)
        if len(rows) + failed == len(ids):
            for path in folder.glob(_JOURNAL.format("*")):
                path.unlink()
            if sharded and (folder / "images").exists():
                shutil.rmtree(folder / "images")


def clear_temporary(folder: Path) -> None:
    """Remove the partial files of killed processes; no other process may be running."""
    for pattern in (".*.tmp*", "images/*/.*.tmp*", "shards/.*.tmp*"):
        for path in folder.glob(pattern):
            path.unlink()


def write_shard(folder: Path, number: int, rows: Sequence[Row]) -> list[Row]:
    """Write the n-th tar shard (WebDataset) of images, unless it holds exactly these already.

    A sample is the image, its prompt (``.txt``) and its row (``.json``). Single files stay; the
    caller removes them after it has recorded the new rows.

    Args:
        folder: the folder of the pairs table.
        number: number of the shard, from 0.
        rows: rows of images that are single files or in this shard, in the order of the shard.

    Returns:
        The rows, with ``file`` inside the shard; empty if nothing was written.
    """
    shard = _shard_file(number)
    if all(row["file"].startswith(f"{shard}/") for row in rows):
        return []
    written = [{**row, "file": f"{shard}/{PurePosixPath(row['file']).name}"} for row in rows]
    with atomic_path(folder / shard) as temporary, tarfile.open(temporary, "w") as tar:
        for before, row in zip(rows, written, strict=True):
            stated = {name: value for name, value in row.items() if value is not None}
            del stated["file"]
            files = {
                PurePosixPath(row["file"]).suffix: _content(folder, before["file"]),
                ".txt": row["prompt"].encode(),
                ".json": json.dumps(stated, ensure_ascii=False).encode(),
            }
            add_sample(tar, row["id"], files)
    return written


def check_shards(folder: Path, shards: Sequence[Collection[str]], done: Mapping[str, Row]) -> None:
    """Check that existing shards can stay: new prompts may come only at the end.

    Args:
        folder: the folder of the pairs table.
        shards: pair ids of each shard.
        done: rows of finished images, by pair id.

    Raises:
        UnpromptError: an image is in another shard, or a shard to be rewritten holds other images.
    """
    for number, ids in enumerate(shards):
        shard = _shard_file(number)
        inside = {id: split_member(done[id]["file"]) for id in ids if id in done}
        elsewhere = any(member and member[0] != shard for member in inside.values())
        incomplete = not all(inside.get(id) for id in ids)
        held = {name.partition(".")[0] for name in member_names(folder / shard)}
        if elsewhere or (incomplete and held - set(ids)):
            raise UnpromptError(
                f"{folder} holds shards of other prompts, or of these in another order; add new "
                "prompts only at the end of the list, or choose another folder"
            )


def is_single_file(row: Mapping[str, Any]) -> bool:
    """Whether an image is a file of its own, not a member of a shard."""
    return split_member(row["file"]) is None


def _shard_file(number: int) -> str:
    return f"shards/{number:05}.tar"


def _exists(folder: Path, row: Row) -> bool:
    if member := split_member(row["file"]):
        return member[1] in member_names(folder / member[0])
    return (folder / row["file"]).exists()


def _content(folder: Path, file: str) -> bytes:
    if member := split_member(file):
        return read_member(folder / member[0], member[1])
    return (folder / file).read_bytes()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes of this computer out of the block."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
