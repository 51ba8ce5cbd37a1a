"""The verbs that make one model of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options

merge = typer.Typer(
    help="Make one model of several: average their weights, or their answers.",
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
            help="Keep a model only if the score on this table's split val rises.",
            metavar="TABLE",
        ),
    ] = None,
    interpolate: Annotated[
        Path | None,
        typer.Option(
            help="Take the best point between two models on this table's split val (WiSE-FT).",
            metavar="TABLE",
        ),
    ] = None,
) -> None:
    """Average the weights of models that were fine-tuned from the same start.

    Nothing is trained. The average costs what one model costs.

    [bold]Examples[/bold]

      unprompt merge weights runs/a/model runs/b/model runs/c/model -o average

      unprompt merge weights runs/a/model runs/b/model -o best --greedy runs/a/pairs.parquet

      unprompt merge weights zero-shot runs/a/model -o wise --interpolate runs/a/pairs.parquet
    """
    from unprompt.errors import UnpromptError, need

    need("train", "torch")
    from unprompt.pairs.table import load
    from unprompt.predicting.ensemble_model import shares_of
    from unprompt.training import merge_weights

    if sum(option is not None for option in (weights, greedy, interpolate)) > 1:
        raise UnpromptError("--weights, --greedy and --interpolate exclude one another")
    if len(models) < 2 or (interpolate and len(models) > 2):
        wanted = "exactly two models" if interpolate else "two models or more"
        raise UnpromptError(f"{len(models)} given; an average needs {wanted}")
    if greedy:
        made = merge_weights.greedy(models, load(greedy))
    elif interpolate:
        made = merge_weights.interpolate(models[0], models[1], load(interpolate))
    else:
        made = merge_weights.average(models, shares_of(weights) if weights else None)
    made.model.save_pretrained(output)
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
        typer.Option(help="Fit the shares on this table; equal without it.", metavar="TABLE"),
    ] = None,
    split: Annotated[
        options.Split, typer.Option(help="Split to fit on; no model may have learned from it.")
    ] = options.Split.val,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    device: options.Device = "auto",
) -> None:
    """Make a model that answers with the weighted mean of several models' predictions.

    Each prediction is brought to norm 1 first. The folder names the models and is used like any
    model.

    [bold]Examples[/bold]

      unprompt merge answers runs/a/model runs/b/model --fit pairs.parquet -o both

      unprompt predict picture.png --model both
    """
    from unprompt.errors import UnpromptError
    from unprompt.evaluating.evaluation import evaluate
    from unprompt.evaluating.fit_ensemble_weights import fit_ensemble_weights
    from unprompt.pairs.table import load
    from unprompt.predicting.embedding_model import load_model
    from unprompt.predicting.ensemble_model import EnsembleModel, save_ensemble

    if len(models) < 2:
        raise UnpromptError("an ensemble needs two models or more")
    loaded = EnsembleModel([load_model(name, device) for name in models])
    shares = loaded.weights
    if fit:
        pairs = load(fit)
        wanted = None if split is options.Split.all else split.value
        shares = fit_ensemble_weights(
            [evaluate(one, pairs, wanted, None, batch_size) for one in loaded.models]
        )
    save_ensemble(models, shares, output)
    for name, weight in zip(models, shares, strict=True):
        typer.echo(f"{weight:.3f}  {name}", err=True)
