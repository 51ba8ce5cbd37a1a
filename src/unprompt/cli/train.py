"""Verbs that make models."""

from __future__ import annotations

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
