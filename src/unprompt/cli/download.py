"""The verb that downloads the images of URL lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def download(
    source: Annotated[
        str | None, typer.Argument(help="A preset (see --list) or a list of URLs with captions.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of images and pairs table.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the presets and do nothing.")] = False,
    urls: Annotated[
        Path | None,
        typer.Option(help="The preset's list where it was fetched by hand: a file or a folder."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many of the list.")] = None,
    url_column: Annotated[
        str | None, typer.Option(help="The list's column of URLs [default: url].")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Its column of captions [default: caption].")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence noted in the table.")] = None,
    image_size: Annotated[int, typer.Option(help="Side in pixels.")] = 512,
    resize_mode: Annotated[
        str, typer.Option(help="keep_ratio, keep_ratio_largest, center_crop, border or no.")
    ] = "keep_ratio",
    output_format: Annotated[
        str, typer.Option("--format", help="files, or webdataset for tar shards.")
    ] = "files",
    encode_format: Annotated[str, typer.Option(help="jpg, png or webp.")] = "jpg",
    processes: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Downloads at once in each.")] = 64,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds without an answer.")] = 10,
    shard_size: Annotated[int, typer.Option(min=2, help="Pairs in a shard.")] = 1000,
    distributor: Annotated[
        str, typer.Option(help="multiprocessing, pyspark or ray.")
    ] = "multiprocessing",
    wandb: Annotated[bool, typer.Option("--wandb", help="Report to Weights & Biases.")] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Let URLs lead to addresses not public.")
    ] = False,
) -> None:
    """Fetch the images of a URL list; again, it finishes and retries what failed in passing.

    Examples:
      unprompt download --list

      unprompt download urls.tsv -o pairs --processes 8 --format webdataset

      unprompt download mscoco -o coco --limit 100000

      unprompt download cc3m --urls Train_GCC-training.tsv -o cc3m

      unprompt download diffusiondb -o diffusiondb --limit 20000
    """
    from unprompt.collecting.download import Options
    from unprompt.collecting.download import download as run
    from unprompt.collecting.urls.diffusiondb_parts import download_parts
    from unprompt.collecting.urls.preset_list import fetch_list, load_presets, to_text

    presets = load_presets()
    if show:
        typer.echo(to_text(presets))
        return
    if source is None or output is None:
        raise typer.BadParameter("name a preset or a list of URLs, and a folder with -o")
    options = Options(
        image_size,
        resize_mode,
        output_format,
        encode_format,
        processes,
        threads,
        timeout,
        shard_size,
        distributor,
        wandb,
        allow_private,
    )
    preset = presets.get(source)
    if urls is not None and preset is None:
        raise typer.BadParameter(f"--urls needs a preset, and '{source}' is none; see --list")
    if preset is not None and preset.format == "zip parts":
        result = download_parts(preset, output, limit=limit)
    else:
        path = Path(source)
        if preset is not None:
            path = urls or fetch_list(preset, output)
        result = run(
            path,
            output,
            options,
            url_columns=_names(url_column, preset.url_columns if preset else ("url",)),
            caption_columns=_names(
                caption_column, preset.caption_columns if preset else ("caption",)
            ),
            header=preset.header if preset else (),
            source=source if preset else None,
            licence=licence or (preset.licence if preset else None),
            limit=limit,
        )
    typer.echo(str(result), err=True)
    if result.arrived < result.listed:
        raise typer.Exit(1)


def _names(stated: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    return known if stated is None else (stated,)
