"""The verb that reads the prompts stored in image files."""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from unprompt.cli import options


class ReadFormat(StrEnum):
    """Forms of what `read` prints."""

    TEXT = "text"
    JSON = "json"


def read(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, glob patterns, or - for standard input.",
            metavar="IMAGE|DIR|GLOB...",
        ),
    ],
    output_format: Annotated[
        ReadFormat, typer.Option("--format", help="Text, or one JSON object a line.")
    ] = ReadFormat.TEXT,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also settings, further prompts and, in JSON, every raw text."),
    ] = False,
    recursive: options.Recursive = False,
    captions: Annotated[
        bool, typer.Option("--captions", help="Take plain .txt files beside images for prompts.")
    ] = False,
) -> None:
    """Print the prompts that image files carry: exact, at once, no model.

    Exit code 1 where an image could not be read or none was found; an image without a prompt
    is no failure.

    Examples:
      unprompt read image.png

      unprompt read --all image.png

      unprompt read --format json -r pictures > prompts.jsonl
    """
    from itertools import chain, islice

    from unprompt.images import find_images
    from unprompt.reading import read_many
    from unprompt.reading.formatting import show, visible

    failed = 0
    paths = find_images(images, recursive)
    first = list(islice(paths, 2))
    printed = visible if sys.stdout.isatty() else str
    as_json = output_format is ReadFormat.JSON
    if as_json and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # as JSON demands, whatever the locale says
    finish = partial(show, as_json=as_json, everything=everything, named=len(first) > 1)
    for text, note, has_failed in read_many(chain(first, paths), finish, captions):
        failed += has_failed
        if note is not None:
            typer.echo(note, err=True)
        if text is not None:
            # Not echo, which flushes: that would take half of the time of a long run.
            sys.stdout.write((text if as_json else printed(text)) + "\n")
    if not first:
        hint = "" if recursive else "; --recursive looks into sub-folders too"
        typer.echo(f"unprompt: {', '.join(images)}: no image there{hint}", err=True)
    if failed or not first:
        raise typer.Exit(1)
