"""DiffusionDB's metadata (Wang et al., 2022): one Parquet file beside folders ``part-000001``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unprompt.errors import TableError
from unprompt.files import atomic_path
from unprompt.pairs.convert.format import BATCH_SIZE, Format, batches_of, rows_of
from unprompt.pairs.table import PairsTable

SAMPLERS = (
    "ddim",
    "plms",
    "k_euler",
    "k_euler_ancestral",
    "k_heun",
    "k_dpm_2",
    "k_dpm_2_ancestral",
    "k_lms",
    "others",
)
"""Samplers in the order of DiffusionDB's numbers, from 1 (its README on the hub)."""

_SCHEMA = pa.schema(
    [
        ("image_name", pa.string()),
        ("prompt", pa.string()),
        ("part_id", pa.uint16()),
        ("seed", pa.uint32()),
        ("step", pa.uint16()),
        ("cfg", pa.float32()),
        ("sampler", pa.uint8()),
        ("width", pa.uint16()),
        ("height", pa.uint16()),
    ]
)
_HOLDS = frozenset(
    {"id", "file", "prompt", "seed", "steps", "sampler", "guidance", "width", "height"}
)


def matches(path: Path) -> bool:
    """Parquet with ``image_name`` and ``part_id``."""
    if path.suffix != ".parquet" or not path.is_file():
        return False
    try:
        return {"image_name", "part_id"} <= {*pq.read_schema(path).names}
    except (pa.ArrowInvalid, OSError):
        return False


def read(path: Path, images: Path) -> Iterator[PairsTable]:
    """Pairs of the metadata file; the image folders are beside it, or in ``images/`` beside it."""
    root = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    yield from batches_of(_rows(path), root, str(path))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    file = pq.ParquetFile(path)
    held = [name for name in file.schema_arrow.names if name in _SCHEMA.names]
    for batch in file.iter_batches(BATCH_SIZE, columns=held):
        for row in batch.to_pylist():
            number = row.get("sampler")
            name = SAMPLERS[number - 1] if number and number <= len(SAMPLERS) else None
            yield {
                "id": PurePosixPath(row["image_name"]).stem,
                "file": f"part-{row['part_id']:06}/{row['image_name']}",
                "prompt": row.get("prompt") or "",
                "generator": "Stable Diffusion",
                "source": "DiffusionDB",
                "licence": "CC0-1.0",
                "seed": row.get("seed"),
                "steps": row.get("step"),
                "guidance": row.get("cfg"),
                "sampler": name,
                "width": row.get("width"),
                "height": row.get("height"),
            }


def write(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Write metadata; rows fail if a number is too large or ``file`` is not part-NNNNNN/name."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA) as writer:
        for table in batches:
            rows = []
            for number, row in enumerate(rows_of(table, _HOLDS), table.first_row):
                try:
                    rows.append(_row(row))
                except (ValueError, TableError, pa.ArrowException, OverflowError) as error:
                    failed.append(
                        f"{table.name}, row {number}: DiffusionDB cannot store it ({error})"
                    )
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))


def _row(row: dict[str, Any]) -> dict[str, Any]:
    folder, _, name = row["file"].rpartition("/")
    part = folder.removeprefix("part-")
    if not (folder.startswith("part-") and len(part) == 6 and part.isdigit()):
        raise TableError(f"the file '{row['file']}' is not part-NNNNNN/name")
    sampler = row["sampler"]
    values = {
        "image_name": name,
        "prompt": row["prompt"],
        "part_id": int(part),
        "seed": row["seed"],
        "step": row["steps"],
        "cfg": row["guidance"],
        "sampler": SAMPLERS.index(sampler) + 1 if sampler in SAMPLERS else sampler and 9,
        "width": row["width"],
        "height": row["height"],
    }
    for field in _SCHEMA:
        pa.scalar(values[field.name], field.type)
    return values


FORMAT = Format("diffusiondb", _HOLDS, matches, read, write)
