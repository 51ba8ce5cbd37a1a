"""The pairs table: in memory, and its reading, streaming and writing.

A pairs table is a Parquet file. JSON lines of the same columns can be read too, and tables of other
tools (CSV, TSV, JSON lines, Parquet) with a column of image files and one of prompts. The ``file``
of a row is relative to the table's root. The root is the folder of the table or, if the table was
saved in another folder than its images, the folder in the Parquet metadata ``unprompt.root``.
``shard.tar/key.ext`` is a member of a tar shard (WebDataset).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from unprompt.errors import OutputError, TableError, UnreadableImageError
from unprompt.files import atomic_path
from unprompt.images import open_rgb
from unprompt.pairs.columns import GUESSED, Columns
from unprompt.pairs.foreign_table import foreign_table
from unprompt.pairs.schema import REQUIRED, SCHEMA, conform, to_arrow
from unprompt.pairs.table_file import (
    ROOT_KEY,
    existing,
    raw_batches,
    root_of,
    without_null_prompts,
)
from unprompt.pairs.tar_shards import read_member, refusal, split_member


@dataclass(frozen=True, slots=True)
class Pair:
    """One image and the prompt that made it. Fields are the columns of `SCHEMA`."""

    id: str
    file: str
    prompt: str
    negative_prompt: str | None = None
    generator: str | None = None
    source: str | None = None
    licence: str | None = None
    exact: bool = True
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    sha256: str | None = None
    group: int | None = None
    split: str | None = None
    embedding: Sequence[float] | None = None


class PairsTable:
    """Pairs in memory: an Arrow table with the columns of `SCHEMA`, and the folder of its images.

    Args:
        data: columns as in `SCHEMA`. Missing nullable columns are filled with null, a missing
            ``exact`` with true; other columns are kept.
        root: the folder that ``file`` is relative to.
        name: the table's name in errors, such as its path.
        first_row: the first row's number in errors, counted from 1 in its file.

    Raises:
        TableError: a required column is missing, or a value has the wrong type or is null. The
            message names column and row.
    """

    def __init__(
        self, data: pa.Table, root: str | Path, name: str = "pairs table", first_row: int = 1
    ):
        self.name = name
        self.root = Path(root)
        self.first_row = first_row
        self.data = conform(data, name, first_row)

    @classmethod
    def from_pairs(cls, pairs: Iterable[Pair], root: str | Path, name: str = "pairs table") -> Self:
        """Build a table from `Pair` objects."""
        rows = [asdict(pair) for pair in pairs]
        columns = {field.name: [row[field.name] for row in rows] for field in fields(Pair)}
        return cls(pa.table(to_arrow(columns)), root, name)

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def __repr__(self) -> str:
        return f"PairsTable({self.name!r}, {len(self)} pairs)"

    def __iter__(self) -> Iterator[Pair]:
        names = [field.name for field in fields(Pair)]
        for batch in self.data.select(names).to_batches(1024):
            for row in batch.to_pylist():
                yield Pair(**row)

    def column(self, name: str) -> list[Any]:
        """Values of one column as Python objects, None for null."""
        return list(self.data.column(name).to_pylist())

    @property
    def prompts(self) -> list[str]:
        """The prompts, in row order."""
        return self.column("prompt")

    def has(self, name: str) -> bool:
        """Whether there are rows, and column ``name`` has a value in each of them."""
        return (
            name in self.data.column_names
            and len(self) > 0
            and self.data.column(name).null_count == 0
        )

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Prompt embeddings, float32 of shape (n, dim).

        Raises:
            TableError: a row has no embedding.
        """
        column = self.data.column("embedding")
        if column.null_count:
            raise TableError(
                f"{self.name}: {column.null_count} of {len(self)} rows have no embedding; "
                "run: unprompt encode"
            )
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.astype(np.float32).reshape(len(self), column.type.list_size)

    def take(self, rows: Sequence[int] | np.ndarray) -> PairsTable:
        """The given rows, counted from 0, in the given order."""
        return self._with(self._stated.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def where(self, mask: Sequence[bool] | np.ndarray | pa.Array | pa.ChunkedArray) -> PairsTable:
        """The rows where ``mask`` is true."""
        if not isinstance(mask, pa.Array | pa.ChunkedArray):
            mask = pa.array(np.asarray(mask, dtype=bool))
        return self._with(self._stated.filter(mask))

    def of_split(self, split: str) -> PairsTable:
        """The rows of one split.

        Raises:
            TableError: the table has no row of this split.
        """
        rows = self.where(pc.fill_null(pc.equal(self.data.column("split"), split), False))
        if not len(rows):
            held = sorted({str(name) for name in self.column("split") if name is not None})
            advice = f"it holds {', '.join(held)}" if held else "run: unprompt split"
            raise TableError(f"{self.name}: no row of the split '{split}'; {advice}")
        return rows

    def with_columns(self, columns: Mapping[str, Any]) -> PairsTable:
        """A copy with columns set: sequences of Python values, Arrow arrays, or for
        ``embedding`` a float array of shape (n, dim).
        """  # noqa: D205
        data = self.data
        for name, array in to_arrow(columns).items():
            field = pa.field(name, array.type)
            index = data.schema.get_field_index(name)
            data = (
                data.append_column(field, array)
                if index < 0
                else data.set_column(index, field, array)
            )
        return self._with(data)

    def read_bytes(self, row: int) -> bytes:
        """Encoded bytes of the image of one row, counted from 0.

        Raises:
            TableError: the file does not exist, or its path leaves the table's folder.
        """
        file = self.data.column("file")[row].as_py()
        where = f"{self.name}, row {self.first_row + row}"
        if reason := refusal(file):
            raise TableError(f"{where}: file '{file}' {reason}")
        try:
            if shard := split_member(file):
                return read_member(self.root / shard[0], shard[1])
            return (self.root / file).read_bytes()
        except (OSError, KeyError) as error:
            raise TableError(f"{where}: image '{file}' is not there ({error})") from error

    def open_image(self, row: int, at_least: int | None = None) -> Image.Image:
        """Decode the image of one row, counted from 0, to RGB; ``at_least`` as in `open_rgb`.

        Raises:
            TableError: see `read_bytes`; or the image cannot be decoded.
        """
        content = self.read_bytes(row)
        try:
            return open_rgb(content, at_least)
        except UnreadableImageError as error:
            file = self.data.column("file")[row].as_py()
            raise TableError(
                f"{self.name}, row {self.first_row + row}: image '{file}': {error}"
            ) from error

    @property
    def _stated(self) -> pa.Table:
        """The data without columns that are all null, which `conform` adds again.

        Arrow would copy them, and 65,536 null embeddings take 50 MB.
        """
        absent = [
            field.name
            for field in SCHEMA
            if field.nullable
            and self.data.field(field.name).type == field.type
            and self.data.column(field.name).null_count == len(self)
        ]
        return self.data.drop_columns(absent)

    def _with(self, data: pa.Table) -> PairsTable:
        return PairsTable(data, self.root, self.name)


def load(
    path: str | Path, columns: Sequence[str] | None = None, named: Columns = GUESSED
) -> PairsTable:
    """Read a whole table: Parquet, JSON lines (``.jsonl``), CSV or TSV.

    A table that is no pairs table needs a column of image files and one of prompts. Their names are
    guessed (`unprompt.pairs.columns`), ids are made of the paths, and one line on standard error
    says what was taken where `unprompt.progress.progress_bars` are shown.

    Args:
        path: the table.
        columns: read only these and ``id``, ``file``, ``prompt`` and ``exact``.
        named: the columns of images and prompts, if their names are not known ones.

    Raises:
        TableError: the file does not exist, is damaged, or does not have the columns. The message
            names column and row.
    """
    batches = list(stream(path, columns, batch_size=65_536, named=named))
    if not batches:
        path = existing(path)
        return PairsTable(SCHEMA.empty_table(), root_of(path), str(path))
    data = pa.concat_tables([batch.data for batch in batches], promote_options="permissive")
    return PairsTable(data, batches[0].root, batches[0].name)


def as_table(table: PairsTable | str | Path) -> PairsTable:
    """The table itself, or the table at a path; see `load` for its errors."""
    return table if isinstance(table, PairsTable) else load(table)


def stream(
    path: str | Path,
    columns: Sequence[str] | None = None,
    batch_size: int = 1024,
    blank_prompts: bool = False,
    named: Columns = GUESSED,
) -> Iterator[PairsTable]:
    """Read a table in batches of at most ``batch_size`` rows, holding one at a time.

    Args:
        path: the table.
        columns: as in `load`.
        batch_size: rows in a batch, at most.
        blank_prompts: read null prompts as empty prompts instead of refusing them.
        named: as in `load`.

    Raises:
        TableError: see `load`.
    """
    path = existing(path)
    foreign = foreign_table(path, named)
    if foreign is not None:
        batches, first_row = foreign.batches(columns, batch_size), foreign.first_row
    else:
        wanted = None
        if columns is not None:
            wanted = list(dict.fromkeys([*REQUIRED, "exact", *columns]))
        batches, first_row, root = raw_batches(path, wanted, batch_size), 1, root_of(path)
    for data in batches:
        if blank_prompts and "prompt" in data.column_names:
            data = without_null_prompts(data)
        yield PairsTable(data, foreign.root if foreign else root, str(path), first_row)
        first_row += data.num_rows


def save(table: PairsTable, path: str | Path) -> None:
    """Write a table as Parquet; the images stay where they are.

    Raises:
        OutputError: the file cannot be written; an old file is unchanged.
    """
    with PairsWriter(path, table.root) as writer:
        writer.write(table)


_OTHERS = (".csv", ".tsv", ".json", ".jsonl", ".txt")
"""File endings of other formats, which a pairs table must not have."""


class PairsWriter:
    """Writes a pairs table batch by batch; the file appears when the ``with`` block succeeds.

    Args:
        path: the Parquet file to write.
        root: folder of the images; the folder of ``path`` by default.

    Raises:
        OutputError: the file's ending is that of another format.
    """

    def __init__(self, path: str | Path, root: str | Path | None = None):
        self.path = Path(path)
        if self.path.suffix.lower() in _OTHERS:
            raise OutputError(
                f"cannot write {path}: a pairs table is a .parquet file; write one, and use "
                "unprompt convert to make another format"
            )
        self.root = self.path.parent if root is None else Path(root)
        self.rows = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._pending = atomic_path(self.path)
        self._temporary = self._pending.__enter__()
        return self

    def write(self, pairs: PairsTable | Iterable[Pair]) -> None:
        """Append a batch; all batches must have the same columns, types and embedding width.

        Raises:
            TableError: the batch differs from the first one.
        """
        if not isinstance(pairs, PairsTable):
            pairs = PairsTable.from_pairs(pairs, self.root, str(self.path))
        writer = self._writer or self._open(pairs.data.schema)
        writer.write_table(self._as_first(pairs.data))
        self.rows += len(pairs)

    def _as_first(self, data: pa.Table) -> pa.Table:
        arrays = []
        for field in self._schema:
            if field.name not in data.column_names:
                raise TableError(
                    f"{self.path}: rows from {self.rows + 1} on lack the column '{field.name}' of "
                    "the rows before"
                )
            column = data.column(field.name)
            if column.null_count == len(column):
                column = pa.nulls(len(column), field.type)
            elif column.type != field.type:
                try:
                    column = column.cast(field.type)
                except pa.ArrowException:
                    raise TableError(
                        f"{self.path}: rows from {self.rows + 1} on hold '{field.name}' as "
                        f"{column.type}, the rows before as {field.type}"
                    ) from None
            arrays.append(column)
        return pa.table(arrays, schema=self._schema)

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        metadata = {}
        if self.root.resolve() != self.path.parent.resolve():
            relative = os.path.relpath(self.root.resolve(), self.path.parent.resolve())
            metadata[ROOT_KEY] = Path(relative).as_posix().encode()
        self._schema = schema.with_metadata(metadata)
        self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
        return self._writer

    def __exit__(
        self,
        raised: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._writer is None and raised is None:
                self._open(SCHEMA)
            if self._writer is not None:
                self._writer.close()
        except OSError as failure:
            raised, error, traceback = type(failure), failure, failure.__traceback__
        self._pending.__exit__(raised, error, traceback)
