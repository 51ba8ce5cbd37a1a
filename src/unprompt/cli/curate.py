"""The verbs that curate pairs: filter, encode, dedup, split and convert."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options


class Backend(StrEnum):
    """Library that computes the embeddings."""

    auto = "auto"
    torch = "torch"
    onnx = "onnx"


class Keep(StrEnum):
    """Which of several near-duplicates is kept."""

    first = "first"
    longest = "longest"
    central = "central"


class PairsFormat(StrEnum):
    """Format of pairs on disk."""

    pairs = "pairs"
    openclip_csv = "openclip-csv"
    webdataset = "webdataset"
    imagefolder = "imagefolder"
    huggingface = "huggingface"
    diffusiondb = "diffusiondb"
    kaggle = "kaggle"
    kaggle_submission = "kaggle-submission"


def filter_table(
    table: options.Table,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The table to write.")
    ] = None,
    dry_run: options.DryRun = False,
    min_words: Annotated[int | None, typer.Option(min=0, help="Least words.")] = None,
    max_words: Annotated[int | None, typer.Option(min=0, help="Most words.")] = None,
    min_chars: Annotated[int | None, typer.Option(min=0, help="Least characters.")] = None,
    max_chars: Annotated[int | None, typer.Option(min=0, help="Most characters.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Most CLIP tokens; CLIP reads 77.")
    ] = None,
    ascii_only: Annotated[
        bool, typer.Option("--ascii", help="Drop prompts with characters beyond ASCII.")
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(help="Drop prompts that are surely not in this language, such as en."),
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="Regular expression that a prompt must contain.")
    ] = None,
    no_match: Annotated[
        str | None, typer.Option(help="Regular expression that a prompt must not contain.")
    ] = None,
    nsfw: Annotated[bool, typer.Option("--no-nsfw", help="Drop prompts with NSFW words.")] = False,
    min_side: Annotated[
        int | None, typer.Option(min=1, help="Least pixels of the image's shorter side.")
    ] = None,
    max_aspect: Annotated[
        float | None, typer.Option(help="Largest ratio of the longer to the shorter side.")
    ] = None,
    check_images: Annotated[
        bool,
        typer.Option(
            "--check-images", help="Decode the images; drop damaged ones and those of one colour."
        ),
    ] = False,
    keep_blank: Annotated[
        bool, typer.Option("--keep-blank", help="Keep prompts that are empty, NULL or NaN.")
    ] = False,
    image_column: options.ImageColumn = None,
    prompt_column: options.PromptColumn = None,
    separator: options.Separator = None,
) -> None:
    """Drop pairs that are not worth training on, and report how many each rule dropped.

    [bold]Examples[/bold]

      unprompt filter pairs.parquet -o clean.parquet --min-words 3 --max-tokens 77

      unprompt filter pairs.parquet --dry-run --language en --check-images --min-side 256
    """
    from unprompt.curating.filter import NSFW_WORDS, Rules, filter_pairs
    from unprompt.pairs.columns import Columns

    if output is None and not dry_run:
        raise typer.BadParameter("name the table to write, or use --dry-run", param_hint="-o")
    rules = Rules(
        blank=not keep_blank,
        min_words=min_words,
        max_words=max_words,
        min_chars=min_chars,
        max_chars=max_chars,
        max_tokens=max_tokens,
        ascii_only=ascii_only,
        language=language,
        match=match,
        no_match=no_match,
        nsfw_words=NSFW_WORDS if nsfw else (),
        min_side=min_side,
        max_aspect=max_aspect,
        images=check_images,
    )
    named = Columns(image_column, prompt_column, separator)
    report = filter_pairs(table, None if dry_run else output, rules, named)
    typer.echo(str(report), err=True)


def encode(
    source: options.Prompts,
    output: options.Output,
    encoder: options.Encoder = options.ENCODER,
    backend: Annotated[
        Backend, typer.Option(help="onnx needs no torch; auto takes the fastest one installed.")
    ] = Backend.auto,
    precision: options.PrecisionOption = options.Precision.auto,
    image_column: options.ImageColumn = None,
    prompt_column: options.PromptColumn = None,
    separator: options.Separator = None,
) -> None:
    """Encode prompts as embeddings.

    The output is the pairs table with its column embedding (.parquet), or an array (.npy). The same
    command again continues where it stopped.

    Use --precision fp32 if the embeddings must give the same scores on every computer.

    [bold]Examples[/bold]

      unprompt encode pairs.parquet -o embedded.parquet

      unprompt encode prompts.txt -o prompts.npy --precision fp32

      unprompt encode prompts.txt -o prompts.npy --precision int8
    """
    from unprompt.curating.encode_file import encode_file
    from unprompt.pairs.columns import Columns

    named = Columns(image_column, prompt_column, separator)
    count = encode_file(source, output, encoder, backend, precision, named)
    typer.echo(f"{output}: {count:,} embeddings", err=True)


def dedup(
    source: options.Prompts,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write: a table, or a text file.")
    ] = None,
    threshold: options.Threshold = 0.9,
    keep: Annotated[
        Keep, typer.Option(help="Which one is kept; central has the most near-duplicates.")
    ] = Keep.first,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Instead remove near-duplicates of the prompts in this table or text file."
        ),
    ] = None,
    images: Annotated[
        bool,
        typer.Option("--images", help="Compare images instead of prompts, by perceptual hash."),
    ] = False,
    distance: Annotated[
        int, typer.Option(min=0, max=31, help="Most bits, of 64, in which image hashes may differ.")
    ] = 8,
    mark: Annotated[
        bool, typer.Option("--mark", help="Keep every row; only set the column group.")
    ] = False,
    report: options.Report = None,
    approximate: Annotated[
        bool,
        typer.Option("--approximate", help="Search with Faiss IVF, for 5 million rows or more."),
    ] = False,
    encoder: options.Encoder = options.ENCODER,
    device: options.Device = "auto",
    image_column: options.ImageColumn = None,
    prompt_column: options.PromptColumn = None,
    separator: options.Separator = None,
) -> None:
    """Remove near-duplicate prompts, and keep one of each group.

    [bold]Examples[/bold]

      unprompt dedup pairs.parquet -o distinct.parquet --threshold 0.9

      unprompt dedup prompts.txt -o distinct.txt --keep longest --report near.html

      unprompt dedup train.parquet --against test.parquet --threshold 0.7 -o clean.parquet

      unprompt dedup pairs.parquet --images --distance 6 -o distinct.parquet
    """
    from unprompt.curating.dedup.dedup_file import dedup_file
    from unprompt.pairs.columns import Columns

    done = dedup_file(
        source,
        output,
        threshold,
        keep,
        against=against,
        distance=distance if images else None,
        mark=mark,
        report=report,
        approximate=approximate,
        device=device,
        encoder=encoder,
        named=Columns(image_column, prompt_column, separator),
    )
    typer.echo(str(done), err=True)
    for line in done.failed:
        options.note(line)
    if done.failed:
        raise typer.Exit(1)


def split(
    table: options.Table,
    output: options.Output,
    val: Annotated[float, typer.Option(help="Share of the rows for val.")] = 0.05,
    test: Annotated[float, typer.Option(help="Share of the rows for test.")] = 0.05,
    threshold: options.Threshold = 0.7,
    seed: options.Seed = 0,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validation folds; val is then fold 0.")
    ] = None,
    encoder: options.Encoder = options.ENCODER,
    image_column: options.ImageColumn = None,
    prompt_column: options.PromptColumn = None,
    separator: options.Separator = None,
) -> None:
    """Split a table into train, val and test; near-duplicate prompts stay together.

    [bold]Examples[/bold]

      unprompt split pairs.parquet -o split.parquet --val 0.1 --test 0.1

      unprompt split pairs.parquet -o folds.parquet --folds 5 --seed 1
    """
    from unprompt.curating.split import split_by_group
    from unprompt.pairs.columns import Columns
    from unprompt.pairs.table import load, save

    pairs = load(table, named=Columns(image_column, prompt_column, separator))
    done = split_by_group(pairs, val, test, threshold, seed, folds, encoder=encoder)
    save(done.table, output)
    typer.echo(str(done), err=True)


def convert(
    source: Annotated[Path, typer.Argument(help="File or folder to read.", metavar="IN")],
    target: Annotated[Path, typer.Argument(help="File or folder to write.", metavar="OUT")],
    to: Annotated[
        PairsFormat | None,
        typer.Option(help="Format to write.", show_default="by the ending of OUT"),
    ] = None,
    source_format: Annotated[
        PairsFormat | None,
        typer.Option("--from", help="Format to read.", show_default="recognised"),
    ] = None,
    image_column: options.ImageColumn = None,
    prompt_column: options.PromptColumn = None,
    separator: options.Separator = None,
) -> None:
    """Convert pairs from one format to another, and report columns that are lost.

    [bold]Examples[/bold]

      unprompt convert pairs.parquet train.csv

      unprompt convert pairs.parquet shards --to webdataset

      unprompt convert diffusiondb/metadata.parquet pairs.parquet

      unprompt convert predicted.parquet submission.csv
    """
    from unprompt.pairs.columns import Columns
    from unprompt.pairs.convert import convert as run

    done = run(source, target, to, source_format, Columns(image_column, prompt_column, separator))
    typer.echo(str(done), err=True)
    for line in done.failed:
        options.note(line)
    if done.failed:
        raise typer.Exit(1)
