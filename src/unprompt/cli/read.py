"""The verb that reads the prompts stored in image files."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from unprompt.cli import options


class ReadFormat(StrEnum):
    """Format of the prompts."""

    text = "text"
    a1111 = "a1111"
    json = "json"
    csv = "csv"


def read(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, glob patterns, or - for standard input.",
            metavar="IMAGE|DIR|GLOB...",
        ),
    ],
    output: options.OptionalOutput = None,
    form: Annotated[ReadFormat | None, options.format_option()] = None,
    raw_csv: options.RawCsv = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Also print settings, further prompts and, in JSON, every raw text."
        ),
    ] = False,
    recursive: options.Recursive = False,
    captions: Annotated[
        bool, typer.Option("--captions", help="Also use plain .txt files beside images as prompts.")
    ] = False,
) -> None:
    """Print the exact prompts that image files carry, without a model.

    Exit codes: 0 all files were read, with or without prompts; 1 some files could not be read; 2
    the call was wrong.

    [bold]Examples[/bold]

      unprompt read image.png

      unprompt read --all image.png

      unprompt read --format a1111 image.png

      unprompt read -r pictures -o prompts.jsonl
    """
    from unprompt.reading.read_files import read_files

    done = read_files(
        images,
        output,
        form,
        everything=everything,
        recursive=recursive,
        captions=captions,
        raw_csv=raw_csv,
        note=lambda line: typer.echo(line, err=True),
    )
    if done.failed:
        raise typer.Exit(1)
