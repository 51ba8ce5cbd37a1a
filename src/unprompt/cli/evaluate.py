"""The verb that measures models."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options


class Form(StrEnum):
    """Form of the scores."""

    text = "text"
    json = "json"
    kaggle = "kaggle"


def evaluate(
    model: Annotated[str, typer.Argument(help="builtin, a model's folder, or a hub repository.")],
    table: Annotated[
        Path | None, typer.Argument(help="The pairs table.", metavar="TABLE", show_default=False)
    ] = None,
    kaggle: Annotated[
        Path | None,
        typer.Option(help="Instead of a table, a folder with prompts.csv and images/."),
    ] = None,
    split: Annotated[options.Split, typer.Option(help="Split to measure on.")] = (
        options.Split.test
    ),
    baselines: Annotated[
        bool, typer.Option(help="Also measure what the training split alone can predict.")
    ] = False,
    words: Annotated[
        bool, typer.Option(help="Also measure the answers in words: cosine, BLEU, chrF.")
    ] = True,
    compare: Annotated[
        str | None, typer.Option(help="Another model, to tell the two apart by paired bootstrap.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write a page with pictures to this HTML file.")
    ] = None,
    form: Annotated[
        Form,
        typer.Option("--format", help="Form of the scores; kaggle is a submission.csv instead."),
    ] = Form.text,
    output: options.OptionalOutput = None,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    device: options.Device = "auto",
) -> None:
    """Measure a model: mean cosine of predicted and true prompt embeddings, and its answers.

    Exit codes: 0 all done, 1 some images could not be decoded, 2 the call was wrong.

    [bold]Examples[/bold]

      unprompt evaluate builtin pairs.parquet

      unprompt evaluate runs/mine/model runs/mine/pairs.parquet --baselines --report report.html

      unprompt evaluate runs/new/model pairs.parquet --compare runs/old/model

      unprompt evaluate builtin --kaggle stable-diffusion-image-to-prompts/

      unprompt evaluate runs/mine/model other.parquet --split all --format json -o scores.json

      unprompt evaluate Salesforce/blip-image-captioning-large pairs.parquet
    """
    from rich.console import Console

    from unprompt.errors import UnpromptError
    from unprompt.evaluating.evaluation import Evaluation, reference_of, with_text_scores
    from unprompt.evaluating.evaluation import evaluate as run
    from unprompt.evaluating.html_report import write_report
    from unprompt.evaluating.text_report import print_difference, print_evaluation
    from unprompt.files import atomic_open
    from unprompt.pairs.convert import read_pairs
    from unprompt.pairs.table import load
    from unprompt.predicting.answer import Answer
    from unprompt.predicting.output import write_answers
    from unprompt.predicting.predictor import Predictor

    if table and not kaggle:
        pairs = load(table)
    elif kaggle and not table:
        pairs = read_pairs(kaggle, "kaggle")
    else:
        raise UnpromptError("evaluate needs a TABLE, or --kaggle with a folder, and not both")
    wanted = None if split == "all" or kaggle else split

    def measure(name: str) -> Evaluation:
        predictor = Predictor(name, device=device)
        reference = None
        if baselines and name == model:
            train = pairs.of_split("train")
            reference = reference_of(predictor.model, train, batch_size)
        scores = run(predictor.model, pairs, wanted, reference, batch_size)
        return with_text_scores(scores, predictor) if words and form is not Form.kaggle else scores

    scores = measure(model)
    other = measure(compare) if compare else None
    if report:
        write_report(scores, report)
    with atomic_open(output) if output else nullcontext(sys.stdout) as file:
        if form is Form.kaggle:
            ids = scores.pairs.column("id")
            answers = (
                Answer(name, embedding=row) for name, row in zip(ids, scores.predicted, strict=True)
            )
            for _ in write_answers(answers, file, form):
                pass
        elif form is Form.json:
            stated = scores.to_dict()
            if other:
                stated["difference"] = {
                    "name": other.model.name,
                    **scores.better_than(other).to_dict(),
                }
            file.write(json.dumps(stated, indent=2) + "\n")
        else:
            console = Console(file=file)
            print_evaluation(scores, console)
            if other:
                print_evaluation(other, console)
                print_difference(scores, other, console)
    for failure in scores.failures:
        typer.echo(f"unprompt: {failure}", err=True)
    if scores.failures:
        raise typer.Exit(1)


def calibrate(
    model: Annotated[str, typer.Argument(help="A model's folder, or builtin.", metavar="MODEL")],
    table: Annotated[
        Path, typer.Argument(help="Pairs that the model has not learned from.", metavar="TABLE")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for a calibrated copy of the model.",
            show_default="MODEL itself is changed",
        ),
    ] = None,
    split: Annotated[options.Split, typer.Option(help="Split to measure on.")] = options.Split.val,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    device: options.Device = "auto",
) -> None:
    """Measure how near a model's answers are to the true prompts, so that its scores say so.

    [bold]Examples[/bold]

      unprompt calibrate builtin mine.parquet -o mymodel --split all

      unprompt calibrate both pairs.parquet
    """
    from unprompt.errors import need

    need("train", "scipy")
    from unprompt.evaluating.fit_calibration import calibrate_folder
    from unprompt.pairs.table import load

    pairs = load(table)
    wanted = None if split is options.Split.all else split.value
    made = calibrate_folder(model, pairs, wanted, device, output=output, batch_size=batch_size)
    typer.echo(f"estimated cosine of a bank's answer: {made.bank}", err=True)
    if made.decoder:
        taken = "they answer" if made.decoder_preferred else "the bank answers better"
        typer.echo(f"of a decoder's text: {made.decoder}; {taken}", err=True)
