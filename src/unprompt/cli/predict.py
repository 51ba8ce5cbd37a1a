"""The verb that recovers prompts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options


class Format(StrEnum):
    """Form of the answers."""

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
    form: Annotated[Format, typer.Option("--format", help="Form of the answers.")] = Format.text,
    output: options.OptionalOutput = None,
    recursive: options.Recursive = False,
    watch: Annotated[
        Path | None,
        typer.Option(
            help="Then wait for new images in this folder and predict each as it comes, until "
            "Ctrl-C."
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=0.05, help="Seconds between two looks at a watched folder.")
    ] = 1.0,
    sidecars: Annotated[
        bool,
        typer.Option(
            "--write-sidecar",
            help="Write NAME.txt, the prompt, and NAME.json, the whole answer, beside each image.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Let --write-sidecar replace what it did not write."),
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
    from unprompt.errors import UnpromptError
    from unprompt.files import atomic_open
    from unprompt.images import find_images
    from unprompt.predicting.answer import Answer
    from unprompt.predicting.output import write_answers
    from unprompt.predicting.watch import new_images
    from unprompt.predicting.write_sidecar import Sidecars, write_sidecars
    from unprompt.progress import track

    if not images and not watch:
        raise UnpromptError("name images or folders, or a folder to --watch")
    coming = new_images(watch, interval, recursive) if watch else iter(())

    def found() -> Iterator[Path]:
        return find_images(images or [], recursive)

    files = found()
    # All of them where the watched folder may give them once more.
    first = list(files if watch else islice(files, batch_size + 1))
    if images and not first:
        hint = "" if recursive else "; --recursive looks into sub-folders too"
        raise UnpromptError(f"{', '.join(images)}: no image there{hint}")
    predictor = options.make_predictor(
        models, weights, route, top_k, bank, knn, rerank, device, num_beams, top_p
    )
    if watch:
        if route is not options.Route.read:
            _ = predictor.model  # now: the first image need not wait, and an error comes at once
        typer.echo(f"unprompt: watching {watch}; Ctrl-C ends", err=True)
    encoder = predictor.model.encoder if form is Format.kaggle else ""
    counts = Sidecars()
    done = failed = 0

    def counted(answers: Iterable[Answer]) -> Iterator[Answer]:
        nonlocal done, failed
        for answer in answers:
            done += 1  # before it is written: Ctrl-C may come once its last line is seen
            if answer.error:
                failed += 1
                typer.echo(f"unprompt: {answer.file}: {answer.error}", err=True)
            yield answer

    with atomic_open(output) if output else nullcontext(sys.stdout) as file:
        named = frozenset(first)
        later = ([path for path in batch if path not in named] for batch in coming)
        batches = chain([chain(first, files)], later)
        answers: Iterator[Answer] = (
            one for batch in batches for one in predictor.stream(batch, batch_size)
        )
        if sidecars:
            answers = write_sidecars(answers, counts, overwrite)
        answers = counted(answers)
        written = write_answers(answers, file, form, encoder)
        if len(first) > batch_size and not watch:
            written = track(written, "Predicting", lambda: sum(1 for _ in found()))
        try:
            for _ in written:
                if watch:
                    file.flush()
        except KeyboardInterrupt:
            if not watch:
                raise
            typer.echo(f"unprompt: stopped watching {watch}; {done} images answered", err=True)
    if sidecars:
        typer.echo(f"unprompt: {counts}", err=True)
    if failed:
        typer.echo(f"unprompt: {failed} of {done} images failed", err=True)
        raise typer.Exit(1)
