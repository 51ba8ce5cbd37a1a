"""The verb that recovers prompts."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app


class Route(StrEnum):
    """Which way to the prompt."""

    auto = "auto"
    read = "read"
    embed = "embed"
    decode = "decode"
    caption = "caption"


class Format(StrEnum):
    """Form of the answers."""

    text = "text"
    json = "json"
    csv = "csv"
    kaggle = "kaggle"


@app.command()
def predict(
    images: Annotated[
        list[str], typer.Argument(help="Images, folders or glob patterns.", metavar="IMAGE|DIR...")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="builtin, a model's folder, or a hub repository; several answer as an ensemble.",
            show_default="builtin",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="How much each of several models counts, as 0.3,0.7; else equal."),
    ] = None,
    route: Annotated[
        Route,
        typer.Option(
            help="Read the file's own prompt; embed the picture and search the bank, or let a "
            "decoder write; let a captioner write; or read first."
        ),
    ] = Route.auto,
    top_k: Annotated[int, typer.Option(min=1, help="Prompts to give for each image.")] = 1,
    form: Annotated[Format, typer.Option("--format", help="Form of the answers.")] = Format.text,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file.")
    ] = None,
    recursive: Annotated[bool, typer.Option(help="Descend into sub-folders.")] = False,
    bank: Annotated[
        str | None, typer.Option(help="A bank's folder, or that of a model whose bank to search.")
    ] = None,
    knn: Annotated[
        int,
        typer.Option(
            min=0, help="Average so many of the bank's nearest prompts into the embedding."
        ),
    ] = 0,
    rerank: Annotated[
        bool,
        typer.Option(
            help="Encode prompts of bank and decoder again; rank them by their cosine to the "
            "predicted embedding. Needs the target encoder."
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 16,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda, for models that run on torch.")
    ] = None,
    num_beams: Annotated[
        int, typer.Option(min=1, help="Beams of a captioner's or decoder's search.")
    ] = 4,
    top_p: Annotated[
        float | None,
        typer.Option(help="Let it sample from the likeliest tokens of this probability."),
    ] = None,
) -> None:
    """Recover the prompts of images.

    Exit codes: 0 all done, 1 some images failed (each is named), 2 the call was wrong.

    [bold]Examples[/bold]

      unprompt predict picture.png

      unprompt predict holiday/ --recursive --format json -o prompts.jsonl

      unprompt predict picture.png --route embed --top-k 5

      unprompt predict images/ --model runs/mine/model --format kaggle -o submission.csv

      unprompt predict picture.png --model runs/coca/model --route caption --top-k 3

      unprompt predict picture.png --model builtin --model runs/mine/model --weights 0.3,0.7
    """
    from unprompt.errors import UnpromptError
    from unprompt.files import atomic_open
    from unprompt.images import find_images
    from unprompt.predicting.captioner import Search
    from unprompt.predicting.ensemble import shares_of
    from unprompt.predicting.model import BUILTIN
    from unprompt.predicting.output import write_answers
    from unprompt.predicting.predictor import Predictor
    from unprompt.progress import track

    files = find_images(images, recursive)
    if not files:
        hint = "" if recursive else "; --recursive looks into sub-folders too"
        raise UnpromptError(f"{', '.join(images)}: no image there{hint}")
    predictor = Predictor(
        models or BUILTIN,
        route,
        top_k,
        bank,
        device,
        Search(num_beams, top_p),
        knn,
        rerank,
        shares_of(weights) if weights else None,
    )
    encoder = predictor.model.encoder if form is Format.kaggle else ""
    failed = 0
    with atomic_open(output) if output else nullcontext(sys.stdout) as file:
        answers = write_answers(predictor.stream(files, batch_size), file, form, encoder)
        for answer in track(answers, "Predicting", len(files), show=len(files) > batch_size):
            if answer.error:
                failed += 1
                typer.echo(f"unprompt: {answer.file}: {answer.error}", err=True)
    if failed:
        typer.echo(f"unprompt: {failed} of {len(files)} images failed", err=True)
        raise typer.Exit(1)
