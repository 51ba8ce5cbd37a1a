"""Reading of prompts from a table, JSON lines, a CSV file or plain text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from unprompt.errors import TableError
from unprompt.files import atomic_open
from unprompt.pairs.columns import GUESSED, IMAGE_COLUMNS, Columns, find_column, prompt_column
from unprompt.pairs.csv_file import DELIMITERS, read_csv
from unprompt.pairs.table_file import (
    column_names,
    existing,
    is_csv,
    is_json_lines,
    is_parquet,
    json_rows,
    raw_batches,
)

_BATCH = 65_536


def prompts_of(path: str | Path, columns: Columns = GUESSED) -> list[str]:
    """Every prompt of a file, in its order.

    How it is read depends on the file:

    - from a folder, its ``pairs.parquet`` is read;
    - Parquet, JSON lines (``.jsonl``), CSV and TSV must have the column that ``columns`` names, or
      one of `unprompt.pairs.columns.PROMPT_COLUMNS`; each value is a prompt, even if it is empty;
    - any other file is text in UTF-8; each line that is not blank is a prompt.

    Raises:
        TableError: the file does not exist, is damaged or has no column of prompts, or a value of
            that column is not text. The message names the row or line.
    """
    return list(stream_prompts(path, columns))


def stream_prompts(path: str | Path, columns: Columns = GUESSED) -> Iterator[str]:
    """Yield the prompts of `prompts_of` one by one, for files larger than memory."""
    path = Path(path)
    if _is_structured(path):
        path = existing(path)
        prompts = _json_prompts if is_json_lines(path) else _parquet_prompts
        yield from prompts(path, columns)
    elif is_csv(path, columns.separator):
        yield from _csv_prompts(path, columns)
    elif path.suffix.lower() == ".json":
        raise TableError(
            f"{path}: prompts are not read from .json; write JSON lines (.jsonl) or one prompt a "
            "line (.txt)"
        )
    else:
        yield from _lines(path)


def is_table(path: str | Path, columns: Columns = GUESSED) -> bool:
    """Whether a path is a table with images: it has a column of image files.

    The name decides for a file that is missing, empty or damaged.
    """
    path = Path(path)
    is_structured = _is_structured(path)
    if not is_structured and not is_csv(path, columns.separator):
        return False
    try:
        names = column_names(existing(path), columns.separator)
    except TableError:
        return is_structured
    if not names:
        return is_structured
    return find_column(names, columns.image, IMAGE_COLUMNS) is not None


def _is_structured(path: Path) -> bool:
    return path.is_dir() or is_json_lines(path) or is_parquet(path) or path.suffix == ".parquet"


def write_prompts(prompts: Iterable[str], path: str | Path) -> None:
    """Write prompts to a text file, one a line; line breaks inside a prompt become spaces.

    Raises:
        OutputError: the file cannot be written; an old file is unchanged.
    """
    with atomic_open(path) as file:
        for prompt in prompts:
            file.write(re.sub(r"\r?\n|\r", " ", prompt) + "\n")


def _parquet_prompts(path: Path, columns: Columns) -> Iterator[str]:
    name = prompt_column(column_names(path), path, columns.prompt)
    first_row = 1
    for batch in raw_batches(path, [name], _BATCH):
        column = batch.column(name)
        for row, prompt in enumerate(column.to_pylist(), first_row):
            yield _text(prompt, name, path, row)
        first_row += len(column)


def _json_prompts(path: Path, columns: Columns) -> Iterator[str]:
    name = None
    for number, row in json_rows(path):
        name = name or prompt_column(row, path, columns.prompt)
        yield _text(row.get(name), name, path, number)


def _csv_prompts(path: Path, columns: Columns) -> Iterator[str]:
    separator = columns.separator
    name = prompt_column(column_names(path, separator), path, columns.prompt)
    return (row[name] for _, row in read_csv(path, [name], separator or DELIMITERS))


def _text(prompt: object, name: str, path: Path, row: int) -> str:
    if not isinstance(prompt, str):
        held = "null" if prompt is None else f"{prompt!r}, which is not text"
        raise TableError(f"{path}, row {row}: column '{name}' is {held}")
    return prompt


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise TableError(
                        f"{path}, line {number}: not UTF-8; convert the file first"
                    ) from error
                if text.strip():
                    yield text.strip("\r\n")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from error


def text_key(text: str) -> int:
    """A 64-bit hash that represents a text in a set, to save memory.

    The probability that two of a million texts have the same hash is 3 in 10^8.
    """
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest())
