"""The verb that makes a pairs table of images that carry their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
