"""Columns of the pairs table, and the conversion of data to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from unprompt.errors import TableError

EMBEDDING_DIM = 384

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("negative_prompt", pa.string()),
        pa.field("generator", pa.string()),
        pa.field("source", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("exact", pa.bool_(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("seed", pa.uint64()),
        pa.field("steps", pa.int32()),
        pa.field("sampler", pa.string()),
        pa.field("guidance", pa.float32()),
        pa.field("sha256", pa.string()),
        pa.field("group", pa.int64()),
        pa.field("split", pa.string()),
        pa.field("embedding", pa.list_(pa.float16(), EMBEDDING_DIM)),
    ]
)
"""Columns of a pairs table. The width of ``embedding`` is that of the encoder, here MiniLM's."""

REQUIRED = ("id", "file", "prompt")
SPLITS = ("train", "val", "test")


def conform(data: pa.Table, name: str, first_row: int) -> pa.Table:
    """Give ``data`` the columns, order and types of `SCHEMA`; other columns come last.

    Raises:
        TableError: a column is missing, or a value is null or of the wrong type. The message names
            the table, the column and the row, counted from ``first_row``.
    """
    for column in REQUIRED:
        if column not in data.column_names:
            raise TableError(
                f"{name}: column '{column}' is missing; it holds {', '.join(data.column_names)}"
            )
    arrays: dict[str, pa.ChunkedArray | pa.Array] = {}
    for field in SCHEMA:
        if field.name in data.column_names:
            array = _cast(data.column(field.name), field, name, first_row)
            if field.name == "exact":
                array = pc.fill_null(array, True)
        elif field.name == "exact":
            array = pa.repeat(pa.scalar(True), data.num_rows)
        else:
            array = pa.nulls(data.num_rows, field.type)
        if not field.nullable and array.null_count:
            row = pc.index(pc.is_null(array), True).as_py() + first_row
            raise TableError(f"{name}, row {row}: column '{field.name}' is null")
        arrays[field.name] = array
    extra = {n: data.column(n) for n in data.column_names if n not in arrays}
    return pa.table(arrays | extra)


def _cast(column: pa.ChunkedArray, field: pa.Field, name: str, first_row: int) -> pa.ChunkedArray:
    wanted = field.type
    if field.name == "embedding" and (width := _width(column)):
        wanted = pa.list_(pa.float16(), width)
    if column.type == wanted:
        return column
    numeric_text = pa.types.is_string(wanted) and not is_text(column.type)
    try:
        if numeric_text and not pa.types.is_null(column.type):
            raise pa.ArrowInvalid(f"{column.type} is not text")
        return column.cast(wanted)
    except pa.ArrowException as error:
        for row, value in enumerate(column):
            try:
                if value.is_valid and numeric_text:
                    raise pa.ArrowInvalid("not text")
                value.cast(wanted)
            except pa.ArrowException:
                raise TableError(
                    f"{name}, row {row + first_row}: column '{field.name}' holds "
                    f"{value.as_py()!r}, which is not of type {wanted}"
                ) from None
        raise TableError(
            f"{name}: column '{field.name}' is not of type {wanted} ({error})"
        ) from error


def _width(column: pa.ChunkedArray) -> int | None:
    """Width of the first embedding in a column; None if there is no embedding."""
    if pa.types.is_fixed_size_list(column.type):
        return int(column.type.list_size)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = pc.list_value_length(column).drop_null()
        return int(lengths[0].as_py()) if len(lengths) else None
    return None


def is_text(type_: pa.DataType) -> bool:
    """Whether values of an Arrow type are text, also in a dictionary."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    types = pa.types
    return types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_)


def to_arrow(columns: Mapping[str, Any]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Arrow arrays of the schema's types from columns of Python values or numpy arrays.

    Raises:
        TableError: a column holds values of another type.
    """
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, pa.Array | pa.ChunkedArray):
            arrays[name] = values
        elif name == "embedding" and isinstance(values, np.ndarray):
            flat = pa.array(values.astype(np.float16).ravel())
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        elif name in SCHEMA.names:
            type_ = SCHEMA.field(name).type
            if name == "embedding":
                width = next((len(v) for v in values if v is not None), EMBEDDING_DIM)
                type_ = pa.list_(pa.float16(), width)
                values = [None if v is None else np.asarray(v, dtype=np.float16) for v in values]
            try:
                arrays[name] = pa.array(values, type_)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise TableError(f"column '{name}' is not of type {type_} ({error})") from error
        else:
            arrays[name] = pa.array(values)
    return arrays
