"""Tables of other tools, which get the columns of a pairs table as they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from unprompt.errors import TableError
from unprompt.pairs.columns import Columns, image_column, prompt_column
from unprompt.pairs.prompt_file import text_key
from unprompt.pairs.schema import REQUIRED, SCHEMA, is_text
from unprompt.pairs.table_file import column_names, is_csv, raw_batches
from unprompt.progress import note


@dataclass
class ForeignTable:
    """A table with a column of image files and one of prompts, under any names.

    The path of an image is its id where the table has no ids. Paths are relative to the folder of
    the table, or all absolute.

    Attributes:
        path: the table.
        image: its column of image files.
        prompt: its column of prompts.
        separator: what separates the columns of a CSV file, if it is known.
        root: the folder that the column ``file`` is relative to; known after the first batch.
    """

    path: Path
    image: str
    prompt: str
    separator: str | None = None
    root: Path = field(init=False)
    _times: Counter[int] = field(default_factory=Counter, init=False)

    @property
    def first_row(self) -> int:
        """Number in errors of the first row; the header of a CSV file is row 1."""
        return 2 if is_csv(self.path, self.separator) else 1

    def batches(self, columns: Sequence[str] | None, batch_size: int) -> Iterator[pa.Table]:
        """Yield batches with the columns ``id``, ``file`` and ``prompt`` and those asked for.

        Raises:
            TableError: the table is damaged, a row has no image, or its path is a URL; names the
                row.
        """
        wanted = None
        if columns is not None:
            taken = {"id", self.image, self.prompt, "exact", *columns}
            wanted = [name for name in column_names(self.path, self.separator) if name in taken]
        note(f"{self.path}: takes images from '{self.image}' and prompts from '{self.prompt}'")
        first_row = self.first_row
        for data in raw_batches(self.path, wanted, batch_size, self.separator, typed=False):
            yield self._as_pairs(data, first_row)
            first_row += data.num_rows

    def _as_pairs(self, data: pa.Table, first_row: int) -> pa.Table:
        given = data.column(self.image).to_pylist()
        files = [self._file(value, row) for row, value in enumerate(given, first_row)]
        own = data.column("id").to_pylist() if "id" in data.column_names else [None] * len(given)
        ids = [
            self._id(file) if stated in (None, "") else str(stated)
            for file, stated in zip(given, own, strict=True)
        ]
        prompts = data.column(self.prompt)
        arrays = {"id": pa.array(ids, pa.string()), "file": pa.array(files, pa.string())}
        arrays["prompt"] = prompts
        for name in data.column_names:
            if name in (self.image, self.prompt, *REQUIRED):
                continue
            column = data.column(name)
            arrays[name] = self._typed(column, name) if name in SCHEMA.names else column
        return pa.table(arrays)

    def _file(self, value: object, row: int) -> str:
        where = f"{self.path}, row {row}"
        if not isinstance(value, str) or not value:
            raise TableError(f"{where}: column '{self.image}' is {value!r}, not the path of a file")
        if "://" in value:
            raise TableError(f"{where}: '{value}' is a URL; run: unprompt download")
        absolute = Path(value).is_absolute()
        if not hasattr(self, "root"):
            self.root = Path("/") if absolute else self.path.parent
        if absolute != (self.root == Path("/")):
            raise TableError(f"{where}: relative and absolute paths are mixed; use only one")
        if "\\" in value and not (self.root / value).exists():
            value = value.replace("\\", "/")
        return value.lstrip("/")

    def _id(self, file: str) -> str:
        key = text_key(file)
        self._times[key] += 1
        return file if self._times[key] == 1 else f"{file}#{self._times[key]}"

    def _typed(self, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray | pa.Array:
        """A column of the schema's type; null if its values are of another kind."""
        wanted = SCHEMA.field(name).type
        if name == "embedding":
            return column if _is_list(column.type) else pa.nulls(len(column), wanted)
        if pa.types.is_null(column.type):
            return column
        if is_text(column.type):
            values = [None if value == "" else value for value in column.to_pylist()]
            column = pa.chunked_array([pa.array(values, pa.string())])
        for steps in ((wanted,), (pa.float64(), wanted)):
            try:
                found = column
                for step in steps:
                    found = found.cast(step)
            except pa.ArrowException:
                continue
            return found
        note(f"{self.path}: leaves out '{name}', whose values are not of type {wanted}")
        return pa.nulls(len(column), wanted)


def foreign_table(path: Path, columns: Columns) -> ForeignTable | None:
    """The columns to take of a table, or None if it is a pairs table.

    Raises:
        TableError: the table is damaged, or has no column of image files or of prompts.
    """
    separator = columns.separator
    names = column_names(path, separator)
    is_named = columns.image is not None or columns.prompt is not None
    if not names or ({*REQUIRED} <= {*names} and not is_named and not is_csv(path, separator)):
        return None
    text = names if columns.image else column_names(path, separator, text_only=True)
    image = image_column(text, path, columns.image)
    return ForeignTable(path, image, prompt_column(names, path, columns.prompt), separator)


def _is_list(type_: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
