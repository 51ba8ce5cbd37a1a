"""The command line: one verb per public function, and no logic.

Each module of this package holds the verbs of one room; importing it adds them to `app`. Heavy
libraries are imported inside the verbs, so that ``unprompt --help`` answers at once.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

import unprompt
from unprompt.errors import UnpromptError
from unprompt.progress import progress_bars

app = typer.Typer(
    name="unprompt",
    help="From image back to prompt: recover the prompt of an AI-generated image, and build, "
    "clean, train and measure the models that do it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

from unprompt.cli import (  # noqa: E402
    bank,
    collect,
    curate,
    encode,
    ensemble,
    evaluate,
    interrogator,
    predict,
    read,
    serve,
    train,
)

__all__ = [
    "app",
    "bank",
    "collect",
    "curate",
    "encode",
    "ensemble",
    "evaluate",
    "interrogator",
    "main",
    "predict",
    "read",
    "serve",
    "train",
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"unprompt {unprompt.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options that stand before the verb."""
    context.with_resource(progress_bars())


def main() -> None:
    """Run the command line; exit codes: 0 all done, 1 some items failed, 2 the call was wrong.

    A training run that a signal stopped ends with 128 and the signal's number, as shells have it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that it cannot encode is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UnpromptError as error:
        typer.echo(f"unprompt: {error}", err=True)
        sys.exit(error.exit_code)
