"""Verbs of the exact route: what image files themselves say."""

from __future__ import annotations

import io
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app


class ReadFormat(StrEnum):
    """Forms of what `read` prints."""

    TEXT = "text"
    JSON = "json"


@app.command()
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
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Descend into sub-folders.")
    ] = False,
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


@app.command()
def harvest(
    folder: Annotated[Path, typer.Argument(help="Searched with its sub-folders.", metavar="DIR")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The pairs table to write.", metavar="TABLE")
    ],
    captions: Annotated[
        bool,
        typer.Option(
            "--captions/--no-captions",
            help="Take plain .txt files and img2dataset's JSON beside images for prompts, "
            "marked as not exact.",
        ),
    ] = True,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one a core, at most 8.")
    ] = None,
) -> None:
    """Make a pairs table of the images in a folder that carry their prompts.

    Identical images count once. After an interruption the same command goes on where it was.
    Exit code 1 where images could not be read; they are listed at the end.

    Examples:
      unprompt harvest pictures -o pairs.parquet

      unprompt harvest pictures -o pairs.parquet --no-captions
    """
    from unprompt.collecting.harvest import harvest as run
    from unprompt.reading.formatting import visible

    result = run(folder, output, captions, workers)
    typer.echo(f"{result.pairs} pairs written to {output}", err=True)
    for generator, count in result.generators.items():
        typer.echo(f"  {count:>8}  {visible(generator)}", err=True)
    typer.echo(
        f"{result.duplicates} duplicates, {result.without_prompt} images without a prompt, "
        f"{len(result.unreadable)} that could not be read",
        err=True,
    )
    for file, reason in result.unreadable:
        typer.echo(f"  {visible(file)}: {visible(reason)}", err=True)
    if result.unreadable:
        raise typer.Exit(1)
