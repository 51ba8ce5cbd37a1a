"""open_clip's CSV and TSV files: the path of an image and its caption."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from unprompt.files import atomic_open
from unprompt.pairs.columns import Columns
from unprompt.pairs.convert.format import BATCH_SIZE, Format, rows_of
from unprompt.pairs.csv_file import has_columns
from unprompt.pairs.table import PairsTable, stream
from unprompt.pairs.tar_shards import split_member

COLUMNS = ["filepath", "title"]
_DELIMITERS = "\t,"
"""open_clip's default is the tab."""
_HOLDS = frozenset({"file", "prompt"})


def matches(path: Path) -> bool:
    """A file whose header has ``filepath`` and ``title``, separated by tabs or commas."""
    return has_columns(path, COLUMNS, _DELIMITERS)


def read(path: Path, images: Path) -> Iterator[PairsTable]:
    """See `unprompt.pairs.table.stream`; the path of an image is its id."""
    return stream(path, batch_size=BATCH_SIZE, named=Columns(*COLUMNS))


def write(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Write paths relative to the CSV's folder if the images are in it, else absolute paths.

    The delimiter is a tab in a ``.tsv`` file, and a comma in other files. Rows with an image inside
    a tar shard fail, because this image has no path.
    """
    folder = path.parent.resolve()
    with atomic_open(path) as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(COLUMNS)
        for table in batches:
            root = table.root.resolve()
            below = root == folder or folder in root.parents
            for number, row in enumerate(rows_of(table, _HOLDS), table.first_row):
                if split_member(row["file"]):
                    failed.append(
                        f"{table.name}, row {number}: '{row['file']}' is inside a tar shard, "
                        "without a path; convert to imagefolder first"
                    )
                    continue
                place = root / row["file"]
                written = os.path.relpath(place, folder) if below else place
                writer.writerow([str(written), row["prompt"]])


FORMAT = Format("openclip-csv", _HOLDS, matches, read, write)
