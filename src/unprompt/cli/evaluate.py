"""The verbs that measure models."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options


class EvaluationFormat(StrEnum):
    """Format of the scores."""

    text = "text"
    json = "json"
    kaggle = "kaggle"


def evaluate(
    model: Annotated[
        str, typer.Argument(help="builtin, a model's folder or a hub id.", metavar="MODEL")
    ],
    table: Annotated[
        Path | None,
        typer.Argument(
            help="A pairs table, or a CSV, TSV, JSON lines or Parquet file with a column of image "
            "files and one of prompts.",
            metavar="TABLE",
            show_default=False,
        ),
    ] = None,
    kaggle: Annotated[
        Path | None,
        typer.Option(
            help="Instead of a table, a folder with prompts.csv and images/.", metavar="DIR"
        ),
    ] = None,
    output: options.OptionalOutput = None,
    form: Annotated[EvaluationFormat | None, options.format_option()] = None,
    split: options.SplitOption = options.Split.test,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines", help="Also measure baselines that know only the training split."
        ),
    ] = False,
    text_scores: Annotated[
        bool,
        typer.Option(
            help="Also compare answers with the true prompts as texts: cosine, BLEU, chrF."
        ),
    ] = True,
    compare: Annotated[
        str | None,
        typer.Option(help="Another model, compared by paired bootstrap.", metavar="MODEL"),
    ] = None,
    report: options.Report = None,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    device: options.Device = "auto",
    image_column: options.ImageColumn = None,
    prompt_column: options.PromptColumn = None,
    separator: options.Separator = None,
) -> None:
    """Measure a model: mean cosine of predicted and true prompt embeddings, and its answers.

    --format kaggle writes the competition's submission.csv instead of scores.

    Exit codes: 0 all done, 1 some images could not be decoded, 2 the call was wrong.

    [bold]Examples[/bold]

      unprompt evaluate builtin pairs.parquet

      unprompt evaluate runs/mine/model runs/mine/pairs.parquet --baselines --report report.html

      unprompt evaluate runs/new/model pairs.parquet --compare runs/old/model

      unprompt evaluate builtin --kaggle stable-diffusion-image-to-prompts/

      unprompt evaluate runs/mine/model other.parquet --split all -o scores.json

      unprompt evaluate Salesforce/blip-image-captioning-large pairs.parquet
    """
    from unprompt.evaluating.evaluation import evaluate as measure
    from unprompt.evaluating.evaluation_output import write_evaluation
    from unprompt.evaluating.html_report import write_report
    from unprompt.pairs.columns import Columns
    from unprompt.pairs.convert import read_pairs
    from unprompt.pairs.table import load

    if (table is None) == (kaggle is None):
        raise typer.BadParameter("name either a TABLE, or a folder with --kaggle")
    named = Columns(image_column, prompt_column, separator)
    pairs = load(table, named=named) if table else read_pairs(str(kaggle), "kaggle")
    wanted = None if kaggle else split
    text_scores = text_scores and form is not EvaluationFormat.kaggle
    scores = measure(
        model,
        pairs,
        wanted,
        batch_size=batch_size,
        baselines=baselines,
        text_scores=text_scores,
        device=device,
    )
    other = None
    if compare:
        other = measure(
            compare, pairs, wanted, batch_size=batch_size, text_scores=text_scores, device=device
        )
    if report:
        write_report(scores, report)
    write_evaluation(scores, output, form, other)
    for failure in scores.failures:
        options.note(failure)
    if scores.failures:
        raise typer.Exit(1)


def calibrate(
    model: Annotated[str, typer.Argument(help="A model's folder, or builtin.", metavar="MODEL")],
    table: Annotated[
        Path,
        typer.Argument(help="A pairs table that the model was not trained on.", metavar="TABLE"),
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
    split: options.SplitOption = options.Split.val,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    device: options.Device = "auto",
    image_column: options.ImageColumn = None,
    prompt_column: options.PromptColumn = None,
    separator: options.Separator = None,
) -> None:
    """Calibrate a model's scores: how near its answers are likely to be to the true prompts.

    [bold]Examples[/bold]

      unprompt calibrate builtin mine.parquet -o mymodel --split all

      unprompt calibrate both pairs.parquet
    """
    from unprompt.evaluating.fit_calibration import calibrate as fit
    from unprompt.pairs.columns import Columns
    from unprompt.pairs.table import load

    pairs = load(table, named=Columns(image_column, prompt_column, separator))
    made = fit(model, pairs, split, device, output=output, batch_size=batch_size)
    typer.echo(str(made), err=True)
