"""The verbs that train and export models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options
from unprompt.errors import need


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE.yaml")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Recipe values to change, such as schedule.epochs=8.", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh/--resume",
            help="Discard an earlier run, or resume it.",
        ),
    ] = False,
    fold: Annotated[
        int | None,
        typer.Option(
            help="Validate on this fold of a table from split --folds; the run is written to the "
            "sub-folder 'fold-N'."
        ),
    ] = None,
    find_lr: Annotated[
        bool,
        typer.Option(
            "--find-lr", help="Only try rising learning rates, plot the loss, and suggest a rate."
        ),
    ] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Train a model from a recipe; the same command again resumes a stopped run.

    [bold]Examples[/bold]

      unprompt train recipes/mobilenet_pairs.yaml

      unprompt train recipes/mobilenet_pairs.yaml output=runs/long schedule.epochs=8

      unprompt train recipes/mobilenet_pairs.yaml report_to=tensorboard --fresh

      unprompt train recipes/mobilenet_pairs.yaml --find-lr

      unprompt train recipes/vit_l14_336.yaml --dry-run
    """
    need("train", "torch", "omegaconf")
    from unprompt.evaluating.text_report import print_evaluation
    from unprompt.training.recipe import load_recipe

    stated = load_recipe(recipe, overrides, fold)
    if find_lr:
        from unprompt.training.lr_finder import find_learning_rate

        search = find_learning_rate(stated)
        drawn = Path(stated.output) / "learning-rate.png"
        search.plot(drawn)
        typer.echo(f"{drawn}: loss over learning rate", err=True)
        typer.echo(str(search))
        return
    if dry_run:
        from unprompt.training.plan import plan

        typer.echo(str(plan(stated)))
        return
    from unprompt.training.run import train as run

    finished = run(stated, fresh=fresh)
    for scores in finished.scores.values():
        print_evaluation(scores)
    typer.echo(f"model: {finished.model}", err=True)
    if finished.failures:
        for failure in finished.failures:
            options.note(failure)
        options.note(f"{len(finished.failures)} images could not be read")
        raise typer.Exit(1)


def export(
    model: Annotated[str, typer.Argument(help="A trained model's folder, or a hub id.")],
    output: options.Output,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts for the model's bank.", metavar="PROMPTS"),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Pairs table. Its split val calibrates the estimated cosine, and its split train "
            "calibrates --int8.",
            metavar="TABLE",
        ),
    ] = None,
    half: Annotated[bool, typer.Option(help="Store the weights in 16 bits.")] = True,
    int8: Annotated[
        bool | None,
        typer.Option(
            help="For an embedder, compute convolutions in 8 bits, about twice as fast. For a "
            "decoder, store matrices in 8 bits.",
            show_default="only for a decoder",
        ),
    ] = None,
) -> None:
    r"""Export a trained embedder or decoder to ONNX, which runs without torch.

    [bold]Examples[/bold]

      unprompt export runs/mine/model -o mine-onnx

      unprompt export runs/mine/model -o mine-onnx --prompts prompts.txt \
        --calibrate runs/mine/pairs.parquet

      unprompt export runs/mine/model -o mine-int8 --int8 --calibrate runs/mine/pairs.parquet

      unprompt export runs/decoder/model -o mine-onnx --calibrate runs/mine/pairs.parquet
    """
    need("train", "torch")
    from unprompt.training.export import export as run

    typer.echo(str(run(model, output, prompts, calibrate, half, int8)), err=True)
