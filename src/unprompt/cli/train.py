"""Verbs that make and measure models."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app
from unprompt.errors import need


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE.yaml")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Values to change, as schedule.epochs=8.", metavar="[KEY=VALUE]..."),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh/--resume",
            help="Discard what an earlier call left, or go on with it.",
        ),
    ] = False,
    fold: Annotated[
        int | None,
        typer.Option(
            help="Validate on this fold of a table split with --folds; the run goes to its folder "
            "'fold-N'."
        ),
    ] = None,
) -> None:
    """Train a model as a recipe says; the same command again goes on where a run was stopped.

    Any value of the recipe can be changed on the command line.

    [bold]Examples[/bold]

      unprompt train recipes/mobilenet_pairs.yaml

      unprompt train recipes/mobilenet_pairs.yaml output=runs/long schedule.epochs=8

      unprompt train recipes/mobilenet_pairs.yaml report_to=tensorboard --fresh
    """
    need("train", "torch", "omegaconf")
    from unprompt.evaluating.text import show
    from unprompt.training.recipe import load_recipe

    stated = load_recipe(recipe, overrides)
    if fold is not None:
        stated.data.fold = fold
        stated.output = str(Path(stated.output) / f"fold-{fold}")
    from unprompt.training.run import train as run

    finished = run(stated, fresh=fresh, progress=True)
    for scores in finished.scores.values():
        show(scores)
    typer.echo(f"model: {finished.model}", err=True)
    if finished.failures:
        for failure in finished.failures:
            typer.echo(f"unprompt: {failure}", err=True)
        typer.echo(f"{len(finished.failures)} images could not be read", err=True)
        raise typer.Exit(1)


class Form(StrEnum):
    """Form of the scores."""

    text = "text"
    json = "json"


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="builtin, a model's folder, or a hub repository.")],
    table: Annotated[Path, typer.Argument(help="The pairs table.", metavar="TABLE")],
    split: Annotated[
        str, typer.Option(help="Split to measure on; 'all' takes every row.")
    ] = "test",
    baselines: Annotated[
        bool, typer.Option(help="Also measure what the training split alone can predict.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write a page with pictures to this HTML file.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="Form of the scores.")] = Form.text,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
) -> None:
    """Measure a model: mean cosine of predicted and true prompt embeddings, per source.

    Exit codes: 0 all done, 1 some images could not be decoded, 2 the call was wrong.

    [bold]Examples[/bold]

      unprompt evaluate builtin pairs.parquet

      unprompt evaluate runs/mine/model runs/mine/pairs.parquet --baselines --report report.html

      unprompt evaluate runs/mine/model other.parquet --split all --format json
    """
    from unprompt.evaluating.evaluation import evaluate as run
    from unprompt.evaluating.evaluation import reference_of
    from unprompt.evaluating.report import write_report
    from unprompt.evaluating.text import show
    from unprompt.pairs.table import load
    from unprompt.predicting.model import load_model
    from unprompt.predicting.predictor import bank_for

    pairs = load(table)
    loaded = load_model(model, device)
    reference = None
    if baselines:
        reference = reference_of(loaded, pairs.of_split("train"), batch_size, progress=True)
    wanted = None if split == "all" else split
    scores = run(loaded, pairs, wanted, reference, batch_size, progress=True)
    if report:
        write_report(scores, report, bank_for(loaded))
    if form is Form.json:
        typer.echo(json.dumps(scores.to_dict(), indent=2))
    else:
        show(scores)
    for failure in scores.failures:
        typer.echo(f"unprompt: {failure}", err=True)
    if scores.failures:
        raise typer.Exit(1)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A trained model's folder, or a hub repository.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="Text file, one prompt a line: the bank that answers are taken from."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Pairs table whose split 'val' calibrates the estimated cosine."),
    ] = None,
    half: Annotated[bool, typer.Option(help="Store weights in 16 bits.")] = True,
) -> None:
    r"""Export a trained embedder to ONNX, which runs without torch.

    [bold]Examples[/bold]

      unprompt export runs/mine/model -o mine-onnx

      unprompt export runs/mine/model -o mine-onnx --prompts prompts.txt \
        --calibrate runs/mine/pairs.parquet
    """
    need("train", "torch")
    from unprompt.training.export import export as run

    bank = run(model, output, prompts, calibrate, half, progress=True)
    typer.echo(f"{output}: the model, and a bank of {len(bank):,} prompts", err=True)
    if bank.calibration:
        typer.echo(f"estimated cosine of an answer: {bank.calibration}", err=True)
