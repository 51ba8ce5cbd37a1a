"""Verbs of the bank: known prompts, built once and searched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app

bank = typer.Typer(
    name="bank",
    help="Known prompts with their embeddings: build a bank, and search it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(bank)


@bank.command()
def build(
    source: Annotated[
        Path, typer.Argument(help="Text, one prompt a line, or a pairs table.", metavar="TXT|TABLE")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bank's folder, a new one.")],
    index: Annotated[
        str,
        typer.Option(
            help="flat: every prompt is looked at, exact. sq8, pq: Faiss indexes, for a million "
            "prompts and more."
        ),
    ] = "flat",
    encoder: Annotated[
        str, typer.Option(help="Hub id or folder of a sentence-transformers model.")
    ] = "sentence-transformers/all-MiniLM-L6-v2",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, int8 or auto, as for unprompt embed.")
    ] = "auto",
    clip: Annotated[
        str | None,
        typer.Option(
            help="Also search it by image with this CLIP, as hf_clip/ID or open_clip/NAME:TAG; "
            "what is built is a model then."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, for the CLIP.")] = "cpu",
) -> None:
    """Build a bank of prompts; the list may be larger than memory.

    A killed call that is made again encodes only what is missing. With --clip the folder is a
    model: it predicts the mean embedding of the prompts that the CLIP finds nearest to an image,
    without training (docs/zero_shot.md).

    [bold]Examples[/bold]

      unprompt bank build prompts.txt -o mybank

      unprompt bank build pairs.parquet -o mybank --index pq

      unprompt predict picture.png --bank mybank

      unprompt bank build prompts.txt -o knn --clip hf_clip/openai/clip-vit-large-patch14

      unprompt predict picture.png --model knn
    """
    from unprompt.models.bank.bank import recall
    from unprompt.predicting.bank_building import build_bank, build_knn

    settings = (index, encoder, precision)
    if clip:
        built = build_knn(source, output, clip, *settings, device)
    else:
        built = build_bank(source, output, *settings)
    typer.echo(f"{output}: {len(built):,} prompts", err=True)
    if index != "flat":
        share = recall(built, k=10)
        typer.echo(f"recall@10 of {index} against exact search: {share:.3f}", err=True)


@bank.command()
def search(
    folder: Annotated[
        str, typer.Argument(help="A bank's folder, a model's, or builtin.", metavar="BANK")
    ],
    query: Annotated[str, typer.Argument(help="Text, or an image file.", metavar="TEXT|IMAGE")],
    top_k: Annotated[int, typer.Option(min=1, help="Prompts to give.")] = 5,
    model: Annotated[str, typer.Option(help="The embedder, for an image.")] = "builtin",
    probes: Annotated[
        int, typer.Option(min=1, help="Cells of an sq8 or pq index to look into.")
    ] = 32,
    form: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Find the prompts of a bank that are nearest to a text or to an image.

    An image is embedded whatever prompt its file carries.

    [bold]Examples[/bold]

      unprompt bank search mybank "a red fox in the snow"

      unprompt bank search builtin picture.png --top-k 10
    """
    from unprompt.predicting.bank_search import search_bank

    if form not in ("text", "json"):
        raise typer.BadParameter("must be text or json", param_hint="--format")
    for match in search_bank(folder, query, top_k, model, probes):
        line = {"prompt": match.prompt, "cosine": round(match.cosine, 4)}
        typer.echo(json.dumps(line) if form == "json" else f"{match.cosine:.3f}  {match.prompt}")
