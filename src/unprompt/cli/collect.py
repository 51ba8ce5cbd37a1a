"""Verbs of collect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app


@app.command()
def compose(
    output: Annotated[Path, typer.Option("-o", "--output", help="The text file to write.")],
    n: Annotated[int, typer.Option("-n", min=0, help="How many prompts.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed gives other prompts.")] = 0,
    style: Annotated[
        str, typer.Option(help="caption, artist, mixed, or sketch for scenes that can be drawn.")
    ] = "mixed",
) -> None:
    """Compose distinct prompts from a grammar, one a line.

    Examples:
      unprompt compose -n 100000 -o prompts.txt
      unprompt compose -n 600 --style sketch --seed 7 -o scenes.txt
    """
    from unprompt.pairs.compose import compose as run
    from unprompt.pairs.text import write_lines
    from unprompt.progress import track

    write_lines(track(run(n, seed, style), "composing", total=n), output)
    typer.echo(f"{output}: {n:,} prompts", err=True)


@app.command()
def generate(
    prompts: Annotated[Path, typer.Argument(help="Prompts, one a line.", metavar="PROMPTS")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the images and their pairs table.")
    ],
    backend: Annotated[
        str, typer.Option(help="sketch: simple drawings that stand in for a generator's images.")
    ] = "sketch",
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 128,
    images_per_prompt: Annotated[
        int, typer.Option(min=1, help="Images of each prompt, each with its own seed.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Another seed gives other images.")] = 0,
    image_format: Annotated[str, typer.Option("--format", help="png, webp or jpeg.")] = "png",
) -> None:
    """Make images of prompts, with a pairs table; the same command again finishes what is missing.

    Examples:
      unprompt generate scenes.txt -o sketches --backend sketch
      unprompt generate scenes.txt -o sketches --backend sketch --size 64 --images-per-prompt 4
    """
    from unprompt.pairs.backends import make_backend
    from unprompt.pairs.generate import generate as run
    from unprompt.pairs.text import read_lines

    result = run(
        read_lines(prompts),
        output,
        make_backend(backend, size=size),
        images_per_prompt=images_per_prompt,
        seed=seed,
        format=image_format,
        progress=True,
    )
    typer.echo(str(result), err=True)
    for name, reason in result.failed.items():
        typer.echo(f"unprompt: {name}: {reason}", err=True)
    if result.failed:
        raise typer.Exit(1)
