"""The pairs table itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from unprompt.pairs.convert.format import ALL, BATCH_SIZE, Format
from unprompt.pairs.prompt_file import is_table
from unprompt.pairs.table import PairsTable, PairsWriter, stream


def matches(path: Path) -> bool:
    """A table with a column of image files: Parquet, JSON lines, CSV or TSV, or its folder."""
    if path.is_dir():
        return (path / "pairs.parquet").is_file()
    return path.suffix in (".parquet", ".jsonl") or is_table(path)


def read(path: Path, images: Path) -> Iterator[PairsTable]:
    """See `unprompt.pairs.table.stream`."""
    return stream(path, batch_size=BATCH_SIZE)


def write(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Write Parquet; the images stay where they are."""
    first = next(batches, None)
    with PairsWriter(path, first.root if first is not None else None) as writer:
        for table in chain([first] if first is not None else [], batches):
            writer.write(table)


FORMAT = Format("pairs", ALL, matches, read, write)
