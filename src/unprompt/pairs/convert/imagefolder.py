"""Hugging Face imagefolder: images and a ``metadata.jsonl`` with ``file_name`` and ``text``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unprompt.errors import TableError
from unprompt.files import atomic_folder
from unprompt.pairs.convert.format import ALL, Format, batches_of, plain_path, rows_with_images
from unprompt.pairs.table import PairsTable
from unprompt.pairs.table_file import json_rows

METADATA = "metadata.jsonl"


def matches(path: Path) -> bool:
    """A folder with ``metadata.jsonl``."""
    return (path / METADATA).is_file()


def read(path: Path, images: Path) -> Iterator[PairsTable]:
    """Pairs of an image folder; the default ``id`` of a row is its file name."""
    yield from batches_of(_rows(path / METADATA), path, str(path / METADATA))


def _rows(metadata: Path) -> Iterator[dict[str, Any]]:
    for number, row in json_rows(metadata):
        try:
            file, prompt = row.pop("file_name"), row.pop("text")
        except KeyError as error:
            raise TableError(f"{metadata}, row {number}: has no {error}") from error
        yield {"id": file, **row, "file": file, "prompt": prompt}


def write(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Copy images and metadata into a folder; rows with unreadable images fail."""
    with (
        atomic_folder(path) as folder,
        (folder / METADATA).open("w", encoding="utf-8") as metadata,
    ):
        for table in batches:
            for _, row, content in rows_with_images(table, table.data.column_names, failed):
                file = plain_path(row.pop("file"))
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(content)
                line = {"file_name": file, "text": row.pop("prompt"), **row}
                metadata.write(json.dumps(line, ensure_ascii=False) + "\n")


FORMAT = Format("imagefolder", ALL, matches, read, write)
