"""Hugging Face ``datasets`` saved to disk, with the images inside."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from unprompt.errors import MissingExtraError, TableError
from unprompt.files import atomic_folder
from unprompt.pairs.convert.format import ALL, Format, batches_of, plain_path, rows_with_images
from unprompt.pairs.table import PairsTable
from unprompt.pairs.tar_shards import refusal

_NAMES = ("text", "prompt", "caption")


def matches(path: Path) -> bool:
    """A folder that ``Dataset.save_to_disk`` wrote."""
    return (path / "dataset_info.json").is_file() and (path / "state.json").is_file()


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "data") from error
    return datasets


def read(path: Path, images: Path) -> Iterator[PairsTable]:
    """Pairs of a saved dataset with an image and a text column; images are copied to ``images``.

    Raises:
        TableError: the dataset has no such columns.
        MissingExtraError: ``datasets`` is not installed.
    """
    datasets = _datasets()
    data = datasets.load_from_disk(str(path))
    image = next((n for n, one in data.features.items() if isinstance(one, datasets.Image)), None)
    text = next((name for name in _NAMES if name in data.features), None)
    if image is None or text is None:
        raise TableError(
            f"{path}: needs an image and one of {', '.join(_NAMES)}; it holds "
            f"{', '.join(data.features)}"
        )
    data = data.cast_column(image, datasets.Image(decode=False))

    def rows() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(data):
            stored, prompt = row.pop(image), row.pop(text)
            where = f"{path}, row {number + 1}"
            if stored is None or prompt is None:
                raise TableError(f"{where}: has no image or no text; filter the dataset first")
            file = plain_path(row.pop("file", None) or stored["path"] or f"{number:09}.png")
            # The path would be outside the folder; make a name inside it.
            if refusal(file):
                file = f"{number:09}-{PurePosixPath(file).name or 'image'}"
            place = images / file
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.write_bytes(stored["bytes"] or Path(stored["path"]).read_bytes())
            except OSError as error:
                raise TableError(f"{where}: the image cannot be copied ({error})") from error
            yield {"id": str(number), **row, "file": file, "prompt": prompt}

    yield from batches_of(rows(), images, str(path))


def write(batches: Iterator[PairsTable], path: Path, failed: list[str]) -> None:
    """Save a dataset with the columns ``image``, ``text`` and those of the pairs table."""
    datasets = _datasets()
    first = next(batches, None)
    if first is None:
        raise TableError(f"{path}: there are no pairs to write")
    schema = first.data.schema

    def rows() -> Iterator[dict[str, Any]]:
        for table in chain([first], batches):
            for _, row, content in rows_with_images(table, schema.names, failed):
                image = {"bytes": content, "path": None}
                yield {"image": image, "text": row.pop("prompt"), **row}

    plain = datasets.Features.from_arrow_schema(
        pa.schema([field for field in schema if field.name != "prompt"])
    )
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), **plain}
    )
    spool = Path(tempfile.mkdtemp(prefix="unprompt-"))
    try:
        data = _written(datasets, rows(), features, spool)
        with atomic_folder(path) as folder:
            data.save_to_disk(str(folder))
    finally:
        shutil.rmtree(spool)


def _written(datasets: Any, rows: Iterator[dict[str, Any]], features: Any, spool: Path) -> Any:
    """Write rows to an Arrow file, so that memory does not grow with their number."""
    from datasets.arrow_writer import ArrowWriter

    file = spool / "rows.arrow"
    with ArrowWriter(path=str(file), features=features) as writer:
        for row in rows:
            writer.write(features.encode_example(row))
        writer.finalize()
    return datasets.Dataset.from_file(str(file))


FORMAT = Format("huggingface", ALL, matches, read, write)
