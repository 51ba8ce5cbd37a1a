"""The verb that recovers prompts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options


class AnswerFormat(StrEnum):
    """Format of the answers."""

    text = "text"
    json = "json"
    csv = "csv"
    kaggle = "kaggle"


def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders or glob patterns.", metavar="IMAGE|DIR...", show_default=False
        ),
    ] = None,
    models: options.Models = None,
    weights: options.Weights = None,
    route: options.RouteOption = options.Route.auto,
    top_k: options.TopK = 1,
    output: options.OptionalOutput = None,
    form: Annotated[AnswerFormat | None, options.format_option()] = None,
    raw_csv: options.RawCsv = False,
    recursive: options.Recursive = False,
    watch: Annotated[
        Path | None,
        typer.Option(
            help="Then wait for new images in this folder, and predict each one, until Ctrl-C."
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.05, help="Seconds between two searches of the watched folder.")
    ] = 1.0,
    sidecars: Annotated[
        bool,
        typer.Option(
            "--write-sidecar",
            help="Write the prompt to NAME.txt, the whole answer to NAME.json, beside each image.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Let --write-sidecar replace files that it did not write."
        ),
    ] = False,
    bank: options.Bank = None,
    knn: options.Knn = 0,
    rerank: options.Rerank = False,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    device: options.Device = "auto",
    num_beams: options.NumBeams = options.NUM_BEAMS,
    top_p: options.TopP = None,
) -> None:
    """Recover the prompts of images.

    Exit codes: 0 all done, 1 some images failed (each is named), 2 the call was wrong.

    [bold]Examples[/bold]

      unprompt predict picture.png

      unprompt predict holiday/ --recursive --format json -o prompts.jsonl

      unprompt predict picture.png --route embed --top-k 5

      unprompt predict --watch outputs/ --write-sidecar

      unprompt predict images/ --model runs/mine/model --format kaggle -o submission.csv

      unprompt predict picture.png --model runs/coca/model --route caption --top-k 3

      unprompt predict picture.png --model builtin --model runs/mine/model --weights 0.3,0.7

      unprompt predict picture.png --model Salesforce/blip-image-captioning-large --num-beams 5

      unprompt predict picture.png --model hf_clip/openai/clip-vit-large-patch14
    """
    from unprompt.predicting.predict_files import predict_files

    predictor = options.make_predictor(
        models, weights, route, top_k, bank, knn, rerank, device, num_beams, top_p, batch_size
    )
    done = predict_files(
        predictor,
        images or [],
        output,
        form,
        recursive=recursive,
        watch=watch,
        interval=interval,
        sidecars=sidecars,
        overwrite=overwrite,
        raw_csv=raw_csv,
        note=options.note,
    )
    if sidecars:
        options.note(str(done.sidecars))
    if done.failed:
        options.note(f"{done.failed} of {done.images} images failed")
        raise typer.Exit(1)
