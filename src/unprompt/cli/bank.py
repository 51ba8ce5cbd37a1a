"""The verbs that build and search a bank of known prompts."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from unprompt.cli import options

bank = typer.Typer(
    help="Build a bank of known prompts with their embeddings, and search it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class MatchFormat(StrEnum):
    """Format of a search result."""

    text = "text"
    json = "json"
    csv = "csv"


@bank.command()
def build(
    prompts: options.Prompts,
    output: options.Output,
    index: options.IndexOption = options.Index.flat,
    encoder: options.Encoder = options.ENCODER,
    precision: options.PrecisionOption = options.Precision.auto,
) -> None:
    """Build a bank of prompts; the list may be larger than memory.

    The same command again continues where it stopped.

    [bold]Examples[/bold]

      unprompt bank build prompts.txt -o mybank

      unprompt bank build pairs.parquet -o mybank --index pq

      unprompt predict picture.png --bank mybank
    """
    from unprompt.models.bank.bank import recall
    from unprompt.predicting.build_models import build_bank

    built = build_bank(prompts, output, index, encoder, precision)
    typer.echo(f"{output}: {len(built):,} prompts", err=True)
    if index is not options.Index.flat:
        share = recall(built, k=10)
        typer.echo(f"recall@10 of {index} against exact search: {share:.3f}", err=True)


@bank.command()
def search(
    folder: Annotated[
        str, typer.Argument(help="A bank's folder, a model's folder, or builtin.", metavar="BANK")
    ],
    query: Annotated[str, typer.Argument(help="Text, or an image file.", metavar="TEXT|IMAGE")],
    top_k: options.TopK = 5,
    model: Annotated[
        str, typer.Option(help="builtin, a model's folder or a hub id.", metavar="MODEL")
    ] = "builtin",
    probes: Annotated[int, typer.Option(min=1, help="Cells of an sq8 or pq index to search.")] = 32,
    output: options.OptionalOutput = None,
    form: Annotated[MatchFormat | None, options.format_option()] = None,
    raw_csv: options.RawCsv = False,
) -> None:
    """Find the prompts of a bank that are nearest to a text or to an image.

    For an image, the model predicts an embedding, even if the file carries a prompt.

    [bold]Examples[/bold]

      unprompt bank search mybank "a red fox in the snow"

      unprompt bank search builtin picture.png --top-k 10
    """
    from unprompt.predicting.bank_search import search_bank, write_matches

    write_matches(search_bank(folder, query, top_k, model, probes), output, form, raw_csv)
