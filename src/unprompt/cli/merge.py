"""The verbs that make one model from several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options

merge = typer.Typer(
    help="Make one model from several: average their weights, or their answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Members = Annotated[
    list[str],
    typer.Argument(help="Two or more models: folders, hub ids or builtin.", metavar="MODEL..."),
]


@merge.command()
def weights(
    models: Members,
    output: options.Output,
    weights: options.Weights = None,
    greedy: Annotated[
        Path | None,
        typer.Option(
            help="Add a model only if it raises the score on the split val of this table.",
            metavar="TABLE",
        ),
    ] = None,
    interpolate: Annotated[
        Path | None,
        typer.Option(
            help="Take the best point between two models on the split val of this table (WiSE-FT).",
            metavar="TABLE",
        ),
    ] = None,
) -> None:
    """Average the weights of models that were fine-tuned from the same start.

    Nothing is trained. The result is as fast as one model.

    [bold]Examples[/bold]

      unprompt merge weights runs/a/model runs/b/model runs/c/model -o average

      unprompt merge weights runs/a/model runs/b/model -o best --greedy runs/a/pairs.parquet

      unprompt merge weights zero-shot runs/a/model -o wise --interpolate runs/a/pairs.parquet
    """
    from unprompt.errors import need

    need("train", "torch")
    from unprompt.predicting.ensemble_model import shares_of
    from unprompt.training.merge_weights import merge_weights

    shares = shares_of(weights) if weights else None
    made = merge_weights(models, output, shares, greedy, interpolate)
    for tried, score in made.tried:
        typer.echo(f"{' '.join(f'{share:.2f}' for share in tried)}: {score} on val", err=True)
    for name, share in zip(models, made.weights, strict=True):
        typer.echo(f"{share:.3f} of {name}")


@merge.command()
def answers(
    models: Members,
    output: options.Output,
    fit: Annotated[
        Path | None,
        typer.Option(
            help="Fit the weights on this table, unseen by all models; else they are equal.",
            metavar="TABLE",
        ),
    ] = None,
    split: options.SplitOption = options.Split.val,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    device: options.Device = "auto",
) -> None:
    """Make a model that answers with the weighted mean of several models' predictions.

    Each prediction is scaled to norm 1 first. The output folder lists the models, and can be used
    like any model.

    [bold]Examples[/bold]

      unprompt merge answers runs/a/model runs/b/model --fit pairs.parquet -o both

      unprompt predict picture.png --model both
    """
    from unprompt.evaluating.fit_ensemble_weights import merge_answers

    made = merge_answers(models, output, fit, split, batch_size, device)
    for name, weight in zip(models, made.weights, strict=True):
        typer.echo(f"{weight:.3f} of {name}")
