"""Lists of URLs with captions: CSV, TSV, JSON, JSON lines or Parquet files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unprompt.errors import TableError
from unprompt.files import atomic_path
from unprompt.pairs.prompt_file import text_key

_BATCH = 10_000
_SCHEMA = pa.schema([("url", pa.string()), ("caption", pa.string())])
_SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".jsonl")


def read_list(
    path: Path,
    url_columns: Sequence[str] = ("url",),
    caption_columns: Sequence[str] = ("caption",),
    header: Sequence[str] = (),
) -> Iterator[tuple[str, str]]:
    """URLs and captions of a list; rows without one of them are left out.

    Args:
        path: a file, or a folder of such files, which are read in the order of their names.
        url_columns: possible names of the column of URLs; the first that exists is used.
        caption_columns: possible names of the column of captions.
        header: names of the columns of a CSV or TSV file without a header.

    Raises:
        TableError: a file cannot be read, or a column is missing.
    """
    for file in _files(path):
        for batch in _batches(file, header):
            urls = _column(batch, url_columns, file, "--url-column")
            captions = _column(batch, caption_columns, file, "--caption-column")
            for url, caption in zip(urls, captions, strict=True):
                if url and caption and str(caption).strip():
                    yield str(url), str(caption)


def write_list(rows: Iterator[tuple[str, str]], path: Path, limit: int | None = None) -> None:
    """Write each pair of URL and caption once, as Parquet with columns ``url`` and ``caption``."""
    seen: set[int] = set()
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA) as writer:
        batch: list[dict[str, str]] = []
        for url, caption in rows:
            key = text_key(f"{url}\0{caption}")
            if limit is not None and len(seen) >= limit:
                break
            if key not in seen:
                seen.add(key)
                batch.append({"url": url, "caption": caption})
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, _SCHEMA))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, _SCHEMA))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise TableError(f"{path}: the folder holds no list of URLs ({', '.join(_SUFFIXES)})")
    return files


def _column(batch: pa.RecordBatch, names: Sequence[str], file: Path, option: str) -> list[Any]:
    for name in names:
        if name in batch.schema.names:
            column: list[Any] = batch[name].to_pylist()
            return column
    raise TableError(
        f"{file}: column '{' or '.join(names)}' is missing; it holds "
        f"{', '.join(batch.schema.names)}; name it with {option}"
    )


def _batches(path: Path, header: Sequence[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.csv
    import pyarrow.json

    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from pq.ParquetFile(path).iter_batches(_BATCH)
        elif suffix == ".jsonl":
            yield from pyarrow.json.read_json(path).to_batches(_BATCH)
        elif suffix == ".json":
            yield from _json_table(path).to_batches(_BATCH)
        elif suffix in (".csv", ".tsv"):
            parsing = pyarrow.csv.ParseOptions(
                delimiter="\t" if suffix == ".tsv" else ",",
                # Quotation marks quote nothing in lists without a header, such as Google's.
                quote_char=False if header else '"',
                newlines_in_values=not header,
            )
            reading = pyarrow.csv.ReadOptions(column_names=list(header) or None)
            yield from pyarrow.csv.open_csv(path, parse_options=parsing, read_options=reading)
        else:
            raise TableError(
                f"{path}: a list of URLs is a {', '.join(_SUFFIXES)} file with columns of URLs "
                "and captions, or a folder of such files"
            )
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise TableError(f"{path}: cannot be read ({error})") from error


def _json_table(path: Path) -> pa.Table:
    """An object of columns (as SBU captions), an array of objects, or JSON lines."""
    import pyarrow.json

    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except ValueError:
        return pyarrow.json.read_json(path)
    if isinstance(content, list):
        return pa.Table.from_pylist(content)
    columns = {name: values for name, values in content.items() if isinstance(values, list)}
    return pa.table(columns) if columns else pa.Table.from_pylist([content])
