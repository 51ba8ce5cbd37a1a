"""The command line: a table of verbs. Each verb parses its options, calls a function and prints.

Heavy libraries are imported inside the verbs, so that ``unprompt --help`` is fast.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

import unprompt
from unprompt.cli.bank import bank
from unprompt.cli.compose import compose
from unprompt.cli.curate import convert, dedup, encode, filter_table, split
from unprompt.cli.download import download
from unprompt.cli.evaluate import calibrate, evaluate
from unprompt.cli.generate import generate
from unprompt.cli.harvest import harvest
from unprompt.cli.merge import merge
from unprompt.cli.predict import predict
from unprompt.cli.read import read
from unprompt.cli.serve import serve
from unprompt.cli.train import export, train
from unprompt.cli.zero_shot import zero_shot
from unprompt.errors import UnpromptError
from unprompt.progress import progress_bars
from unprompt.terminal import guard_terminals

__all__ = ["VERBS", "app", "main"]

VERBS: dict[str, dict[str, Callable[..., Any] | typer.Typer]] = {
    "Get prompts": {"predict": predict, "read": read, "bank": bank},
    "Collect": {
        "harvest": harvest,
        "download": download,
        "compose": compose,
        "generate": generate,
    },
    "Curate": {
        "filter": filter_table,
        "encode": encode,
        "dedup": dedup,
        "split": split,
        "convert": convert,
    },
    "Train": {"train": train, "zero-shot": zero_shot, "merge": merge, "export": export},
    "Measure": {"evaluate": evaluate, "calibrate": calibrate},
    "Serve": {"serve": serve},
}
"""Verbs and groups of verbs, by their panel in ``unprompt --help``."""


app = typer.Typer(
    name="unprompt",
    help="From image back to prompt: recover the prompt of an AI-generated image, and build, "
    "clean, train and measure the models that do it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _panel, _verbs in VERBS.items():
    for _name, _verb in _verbs.items():
        if isinstance(_verb, typer.Typer):
            app.add_typer(_verb, name=_name, rich_help_panel=_panel)
        else:
            app.command(_name, rich_help_panel=_panel)(_verb)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"unprompt {unprompt.__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options that stand before the verb."""
    context.with_resource(progress_bars())


def main() -> None:
    """Run the command line. Exit codes: 0 all done, 1 some items failed, 2 the call was wrong.

    If a signal stops a training run, the exit code is 128 plus the signal's number, as in a shell.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that it cannot encode
            stream.reconfigure(errors="backslashreplace")
    guard_terminals()
    try:
        app()
    except UnpromptError as error:
        typer.echo(f"unprompt: {error}", err=True)
        sys.exit(error.exit_code)
