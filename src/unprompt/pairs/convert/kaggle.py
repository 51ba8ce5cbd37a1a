"""Kaggle's 'Stable Diffusion - Image to Prompts': prompts with images, and submissions."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from unprompt.errors import TableError
from unprompt.files import atomic_folder, atomic_open
from unprompt.pairs.convert.format import Format, batches_of, rows_of, rows_with_images
from unprompt.pairs.csv_file import has_columns, read_csv
from unprompt.pairs.table import PairsTable

PROMPTS = ["imgId", "prompt"]
SUBMISSION = ["imgId_eId", "val"]


def _name_of(identity: str) -> str:
    """An id as the name of a file: ``/`` and ``%`` are percent-encoded."""
    return identity.replace("%", "%25").replace("/", "%2F")


def matches(path: Path) -> bool:
    """A folder with ``prompts.csv``."""
    return (path / "prompts.csv").is_file()


def read(path: Path, images: Path) -> Iterator[PairsTable]:
    """Pairs of a folder with ``prompts.csv`` and ``images/imgId.png`` (or another ending)."""
    file_of = {file.stem: f"images/{file.name}" for file in sorted((path / "images").glob("*.*"))}
    rows = (
        {
            "id": unquote(row["imgId"]),
            "file": file_of.get(row["imgId"], f"images/{row['imgId']}.png"),
            "prompt": row["prompt"],
        }
        for _, row in read_csv(path / "prompts.csv", PROMPTS)
    )
    yield from batches_of(rows, path, str(path / "prompts.csv"), first_row=2)


def write(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Copy images to ``images/imgId.ext``; rows with unreadable images fail.

    A slash in an id is percent-encoded, and decoded by `read`.
    """
    with atomic_folder(path) as folder:
        (folder / "images").mkdir()
        with (folder / "prompts.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(PROMPTS)
            for table in batches:
                columns = ["id", "file", "prompt"]
                for number, row, content in rows_with_images(table, columns, failed):
                    name = _name_of(row["id"])
                    if name in ("", ".", ".."):
                        where = f"{table.name}, row {table.first_row + number}"
                        failed.append(f"{where}: the id '{row['id']}' cannot be a file's name")
                        continue
                    suffix = PurePosixPath(row["file"]).suffix
                    (folder / "images" / f"{name}{suffix}").write_bytes(content)
                    writer.writerow([name, row["prompt"]])


def matches_submission(path: Path) -> bool:
    """A CSV with ``imgId_eId`` and ``val``."""
    return has_columns(path, SUBMISSION)


def read_submission(path: Path, images: Path) -> Iterator[PairsTable]:
    """Embeddings of a submission; the prompts are empty and marked as not exact."""
    numbered = read_csv(path, SUBMISSION)

    def rows() -> Iterator[dict[str, Any]]:
        width = None
        for image, lines in groupby(numbered, lambda line: line[1]["imgId_eId"].rpartition("_")[0]):
            values = []
            number = 0
            for place, (number, row) in enumerate(lines):
                try:
                    if int(row["imgId_eId"].rpartition("_")[2]) != place:
                        raise ValueError(f"{row['imgId_eId']} is not number {place} of its image")
                    values.append(float(row["val"]))
                except ValueError as error:
                    raise TableError(f"{path}, row {number}: {error}") from error
            width = width or len(values)
            if len(values) != width:
                raise TableError(
                    f"{path}, row {number}: {image} has {len(values)} values, others {width}"
                )
            yield {
                "id": image,
                "file": f"images/{image}.png",
                "prompt": "",
                "exact": False,
                "embedding": values,
            }

    yield from batches_of(rows(), path.parent, str(path))


def write_submission(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Write a line for each value of each embedding; rows without an embedding fail."""
    with atomic_open(path) as file:
        writer = csv.writer(file)
        writer.writerow(SUBMISSION)
        for table in batches:
            for number, row in enumerate(rows_of(table, ["id", "embedding"]), table.first_row):
                if row["embedding"] is None:
                    failed.append(
                        f"{table.name}, row {number}: has no embedding; run: unprompt encode"
                    )
                    continue
                writer.writerows(
                    (f"{row['id']}_{place}", f"{float(value):.9g}")
                    for place, value in enumerate(row["embedding"])
                )


FORMAT = Format("kaggle", frozenset({"id", "prompt"}), matches, read, write)
SUBMISSION_FORMAT = Format(
    "kaggle-submission",
    frozenset({"id", "embedding"}),
    matches_submission,
    read_submission,
    write_submission,
)
