"""The verb that downloads the images of data sets and URL lists."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options


class ResizeMode(StrEnum):
    """How images are resized."""

    keep_ratio = "keep_ratio"
    keep_ratio_largest = "keep_ratio_largest"
    center_crop = "center_crop"
    border = "border"
    no = "no"


class Storage(StrEnum):
    """How images are stored."""

    files = "files"
    webdataset = "webdataset"


class ImageFormat(StrEnum):
    """Format of the images."""

    jpg = "jpg"
    png = "png"
    webp = "webp"


class Distributor(StrEnum):
    """Library that distributes the work."""

    multiprocessing = "multiprocessing"
    pyspark = "pyspark"
    ray = "ray"


def _list_presets(asked: bool) -> None:
    if asked:
        from unprompt.collecting.urls.preset_list import load_presets, to_text

        typer.echo(to_text(load_presets()))
        raise typer.Exit


def download(
    source: Annotated[
        str,
        typer.Argument(help="A preset (see --list), or a list of URLs with captions."),
    ],
    output: options.Output,
    show: Annotated[
        bool,
        typer.Option(
            "--list", help="Show the presets and exit.", callback=_list_presets, is_eager=True
        ),
    ] = False,
    urls: Annotated[
        Path | None,
        typer.Option(help="The preset's list, if you downloaded it yourself: a file or a folder."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many pairs, from the start of the list.")
    ] = None,
    url_column: Annotated[
        str | None, typer.Option(help="The list's column of URLs.", show_default="url")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="The list's column of captions.", show_default="caption")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence to write into the table.")] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Side of the images in pixels.")] = 512,
    resize_mode: Annotated[
        ResizeMode, typer.Option(help="How images are resized.")
    ] = ResizeMode.keep_ratio,
    image_format: Annotated[ImageFormat, typer.Option(help="Format of the images.")] = (
        ImageFormat.jpg
    ),
    storage: Annotated[
        Storage, typer.Option(help="Single files, or tar shards of WebDataset.")
    ] = Storage.files,
    shard_size: Annotated[int, typer.Option(min=2, help="Images in a tar shard.")] = 1000,
    processes: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Downloads at once in each process.")] = 64,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds to wait for an answer.")] = 10,
    distributor: Annotated[
        Distributor, typer.Option(help="Library that distributes the work.")
    ] = Distributor.multiprocessing,
    wandb: Annotated[bool, typer.Option("--wandb", help="Report to Weights & Biases.")] = False,
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="Allow URLs that lead to private addresses."),
    ] = False,
) -> None:
    """Download the images of a data set or of a URL list, with their pairs table.

    The same command again downloads what is missing, and repeats temporary failures.

    [bold]Examples[/bold]

      unprompt download --list

      unprompt download urls.csv -o pairs --storage webdataset

      unprompt download mscoco -o coco --limit 100000

      unprompt download cc3m --urls Train_GCC-training.tsv -o cc3m

      unprompt download diffusiondb -o diffusiondb --limit 20000
    """
    from unprompt.collecting.download import Options
    from unprompt.collecting.download_dataset import download as run

    how = Options(
        image_size,
        resize_mode,
        storage,
        image_format,
        processes,
        threads,
        timeout,
        shard_size,
        distributor,
        wandb,
        allow_private,
    )
    result = run(
        source,
        output,
        how,
        limit=limit,
        urls=urls,
        url_column=url_column,
        caption_column=caption_column,
        licence=licence,
    )
    typer.echo(str(result), err=True)
    if result.arrived < result.listed:
        raise typer.Exit(1)
