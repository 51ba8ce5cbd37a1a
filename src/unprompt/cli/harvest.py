"""The verb that makes a pairs table from images that carry their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options


def harvest(
    folder: Annotated[
        Path, typer.Argument(help="Folder to search, with its sub-folders.", metavar="DIR")
    ],
    output: options.Output,
    captions: Annotated[
        bool,
        typer.Option(
            "--captions/--exact-only",
            help="Also use plain .txt files and img2dataset's JSON beside images as prompts, and "
            "mark them as not exact.",
        ),
    ] = True,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Worker processes.", show_default="cores, at most 8")
    ] = None,
) -> None:
    """Make a pairs table from the images of a folder that carry their prompts.

    Identical images are written once. The same command again continues where it stopped.

    Exit codes: 0 all done, 1 some images could not be read (each is named).

    [bold]Examples[/bold]

      unprompt harvest pictures -o pairs.parquet

      unprompt harvest pictures -o pairs.parquet --exact-only
    """
    from unprompt.collecting.harvest import harvest as run

    result = run(folder, output, captions, processes)
    typer.echo(f"{output}: {result}", err=True)
    if result.unreadable:
        raise typer.Exit(1)
