"""Conversion of pairs from and to the formats of other tools; each format is one module."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from unprompt.errors import TableError, UnpromptError
from unprompt.pairs.columns import GUESSED, Columns
from unprompt.pairs.convert import (
    diffusiondb,
    huggingface,
    imagefolder,
    kaggle,
    openclip,
    pairs_table,
    webdataset,
)
from unprompt.pairs.convert.format import Format
from unprompt.pairs.schema import SCHEMA
from unprompt.pairs.table import PairsTable, stream
from unprompt.progress import track

__all__ = ["FORMATS", "Conversion", "Format", "convert", "recognise"]

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        openclip.FORMAT,
        kaggle.SUBMISSION_FORMAT,
        kaggle.FORMAT,
        diffusiondb.FORMAT,
        imagefolder.FORMAT,
        huggingface.FORMAT,
        webdataset.FORMAT,
        pairs_table.FORMAT,
    )
}
"""Formats by name; a source has the first format that matches it."""


@dataclass
class Conversion:
    """Result of a conversion.

    Attributes:
        source_format: name of the format that was read.
        target_format: name of the format that was written.
        rows: rows read.
        lost: number of rows with a value, for each column that the target format lacks.
        failed: one line with the reason for each row that could not be written.
    """

    source_format: str
    target_format: str
    rows: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.rows - len(self.failed):,} of {self.rows:,} rows from {self.source_format} "
            f"to {self.target_format}"
        ]
        if self.lost:
            held = ", ".join(f"{name} ({count:,} rows)" for name, count in self.lost.items())
            lines.append(f"{self.target_format} cannot hold: {held}")
        return "\n".join(lines)


def convert(
    source: str | Path,
    target: str | Path,
    to: str | None = None,
    source_format: str | None = None,
    named: Columns = GUESSED,
) -> Conversion:
    """Read pairs in one format and write them in another, batch by batch.

    Args:
        source: file or folder.
        target: file or folder to write; a folder must be new or empty.
        to: a name of `FORMATS`; by default the target's ending decides: ``.parquet`` pairs,
            ``.csv`` or ``.tsv`` openclip-csv, ``submission.csv`` kaggle-submission.
        source_format: a name of `FORMATS`; by default the source's content decides.
        named: the columns of images and prompts of a table, if their names are not known ones.

    Raises:
        UnpromptError: a format is unknown.
        TableError: the source does not exist or is damaged; the message names the row.
        OutputError: the target cannot be written.
    """
    source, target = Path(source), Path(target)
    if named != GUESSED and source_format in (None, "pairs", "openclip-csv"):
        reading = replace(FORMATS["pairs"], read=lambda path, _: stream(path, named=named))
    else:
        reading = _known(source_format) if source_format else recognise(source)
    writing = _known(to) if to else _by_ending(target)
    done = Conversion(reading.name, writing.name)
    # Images inside a source are extracted to a folder, which is kept if the target refers to its
    # files.
    names_files = writing.name in ("pairs", "openclip-csv", "diffusiondb")
    spool = None if names_files else Path(tempfile.mkdtemp(prefix="unprompt-"))
    try:
        batches = reading.read(source, spool or target.parent / f"{target.stem}_images")
        writing.write(_watched(batches, writing, done), target, done.failed)
    finally:
        if spool:
            shutil.rmtree(spool)
    return done


def read_pairs(source: str | Path, source_format: str | None = None) -> PairsTable:
    """All pairs of a file or folder of any format, as one table.

    Args:
        source: file or folder.
        source_format: as in `convert`.

    Raises:
        TableError: the source does not exist, is damaged or is empty; the message names the row.
        UnpromptError: the format is unknown, or stores images inside (Hugging Face datasets).
    """
    source = Path(source)
    reading = _known(source_format) if source_format else recognise(source)
    if reading.name == "huggingface":
        raise UnpromptError(f"{source}: stores its images inside; run unprompt convert first")
    batches = list(reading.read(source, source))
    if not batches:
        raise TableError(f"{source}: holds no pairs")
    data = pa.concat_tables([batch.data for batch in batches], promote_options="default")
    return PairsTable(data, batches[0].root, str(source))


def _watched(
    batches: Iterator[PairsTable], writing: Format, done: Conversion
) -> Iterator[PairsTable]:
    for table in track(batches, "Converting"):
        done.rows += len(table)
        for name in table.data.column_names:
            column = table.data.column(name)
            held = name in writing.holds or (name not in SCHEMA.names and "*" in writing.holds)
            if held or name == "file":
                continue
            values = column.to_pylist() if name == "exact" else None
            count = values.count(False) if values else len(column) - column.null_count
            if count:
                done.lost[name] += count
        yield table


def recognise(source: Path) -> Format:
    """The format of a file or folder.

    Raises:
        TableError: the source does not exist, or no format matches.
    """
    if not source.exists():
        raise TableError(f"{source}: no such file or folder")
    for known in FORMATS.values():
        if known.matches(source):
            return known
    raise TableError(f"{source}: unknown format; name it with --from: {', '.join(FORMATS)}")


def _known(name: str) -> Format:
    if name not in FORMATS:
        raise UnpromptError(f"no format '{name}'; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _by_ending(target: Path) -> Format:
    name = {".parquet": "pairs", ".csv": "openclip-csv", ".tsv": "openclip-csv"}.get(target.suffix)
    if target.name == "submission.csv":
        name = "kaggle-submission"
    if name is None:
        raise UnpromptError(
            f"{target}: its ending names no format; name one with --to: {', '.join(FORMATS)}"
        )
    return FORMATS[name]
