"""Verbs that make and measure models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app


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
) -> None:
    """Train a model as a recipe says; the same command again goes on where a run was stopped."""
    from unprompt.evaluating.text import show
    from unprompt.training.recipe import load_recipe
    from unprompt.training.run import train as run

    finished = run(load_recipe(recipe, overrides), fresh=fresh, progress=True)
    for scores in finished.scores.values():
        show(scores)
