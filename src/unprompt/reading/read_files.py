"""Read the prompts of image files and write them to a file or to standard output."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

from unprompt.errors import UnpromptError
from unprompt.files import format_of, output_stream
from unprompt.images import find_images, no_images_error
from unprompt.reading.formatting import CSV_COLUMNS, csv_row, show
from unprompt.reading.read_batch import read_many

FORMATS = ("text", "a1111", "json", "csv")


@dataclass
class ReadCounts:
    """What `read_files` did.

    Attributes:
        images: number of image files.
        failed: number of files that could not be read.
    """

    images: int = 0
    failed: int = 0


def read_files(
    images: Iterable[str | Path],
    output: str | Path | None = None,
    form: str | None = None,
    *,
    everything: bool = False,
    recursive: bool = False,
    captions: bool = False,
    raw_csv: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> ReadCounts:
    """Read the prompts that image files carry, and write them in the order of the files.

    Args:
        images: image files, folders or glob patterns; ``-`` is standard input.
        output: file to write, whole or not at all; standard output by default.
        form: ``text``, ``a1111``, ``json`` (one object a line) or ``csv``; by default what the
            suffix of ``output`` says, see `unprompt.files.format_of`.
        everything: also write settings, other prompts and, in JSON, every raw text.
        recursive: search sub-folders too.
        captions: take plain ``.txt`` files beside images for prompts.
        raw_csv: do not protect spreadsheets from formulas, see `csv_row`.
        note: called with a line for each file that has no prompt or cannot be read.

    Raises:
        UnpromptError: no image is found, or there is no such format.
        OutputError: the file cannot be written.
    """
    images = list(images)
    form = format_of(output, form)
    if form not in FORMATS:
        raise UnpromptError(f"format '{form}': must be one of {', '.join(FORMATS)}")
    paths = find_images(images, recursive)
    first = list(islice(paths, 2))
    if not first:
        raise no_images_error(images, recursive)
    named = len(first) > 1
    finish = partial(show, form=form, everything=everything, named=named, raw_csv=raw_csv)
    counts = ReadCounts()
    with output_stream(output) as file:
        if form == "json" and output is None and isinstance(file, io.TextIOWrapper):
            file.reconfigure(encoding="utf-8")  # as JSON demands, whatever the locale says
        if form == "csv":
            file.write(csv_row(CSV_COLUMNS) + "\n")
        for text, message, failed in read_many(chain(first, paths), finish, captions):
            counts.images += 1
            counts.failed += failed
            if message is not None:
                note(message)
            if text is not None:
                file.write(text + "\n")
    return counts
