"""Verbs of encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app


@app.command()
def embed(
    source: Annotated[
        Path,
        typer.Argument(help="A pairs table, or text, one prompt a line.", metavar="TABLE|TXT"),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="The pairs table (.parquet) with its column embedding, or an array (.npy).",
        ),
    ],
    encoder: Annotated[
        str, typer.Option(help="Hub id or folder of a sentence-transformers model.")
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    backend: Annotated[
        str,
        typer.Option(help="torch; onnx, which needs no torch; auto: the faster one."),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="fp32: exact. bf16: for torch. int8: the fastest, cosine to fp32 about 0.993. "
            "auto: the fastest with a cosine to fp32 of at least 0.9999."
        ),
    ] = "auto",
) -> None:
    """Turn prompts into embeddings; the same command again goes on where it was stopped.

    Take --precision fp32 where scores are computed from the embeddings and shall be the same on
    every machine.

    Examples:
      unprompt embed pairs.parquet -o embedded.parquet
      unprompt embed prompts.txt -o prompts.npy --precision fp32
      unprompt embed prompts.txt -o prompts.npy --precision int8
    """
    from unprompt.curating.encode import embed as run

    count = run(source, output, encoder, backend, precision)
    typer.echo(f"{output}: {count:,} embeddings", err=True)
