"""The verb that makes one model of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app


@app.command()
def ensemble(
    models: Annotated[
        list[str],
        typer.Argument(help="Models' folders, hub names, or builtin.", metavar="MODEL..."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    fit: Annotated[
        Path | None,
        typer.Option(help="Pairs table to fit the weights on; equal weights without it."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Its split to fit on: one that no model learned from.")
    ] = "val",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
) -> None:
    """Make one model of several: the weighted mean of their predictions, each of norm 1.

    The folder names the models and is used like any model.

    [bold]Examples[/bold]

      unprompt ensemble runs/a/model runs/b/model --fit pairs.parquet -o runs/both

      unprompt predict picture.png --model runs/both
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
    weights = loaded.weights
    if fit:
        pairs = load(fit)
        weights = fit_ensemble_weights(
            [evaluate(one, pairs, split, None, batch_size) for one in loaded.models]
        )
    save_ensemble(models, weights, output)
    for name, weight in zip(models, weights, strict=True):
        typer.echo(f"{weight:.3f}  {name}", err=True)
