"""The pairs table itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from unprompt.pairs.convert.format import ALL, BATCH_SIZE, Format
from unprompt.pairs.table import PairsTable, PairsWriter, stream


def matches(path: Path) -> bool:
    """Parquet or JSON lines, or a folder with ``pairs.parquet``."""
    return path.suffix in (".parquet", ".jsonl") or (path / "pairs.parquet").is_file()


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
