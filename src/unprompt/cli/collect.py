"""Verbs of collect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from unprompt.cli import app


@app.command()
def compose(
    output: Annotated[Path, typer.Option("-o", "--output", help="The text file to write.")],
    n: Annotated[int, typer.Option("-n", min=0, help="How many prompts.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed gives other prompts.")] = 0,
    style: Annotated[
        str, typer.Option(help="caption, artist, mixed, or sketch for scenes that can be drawn.")
    ] = "mixed",
    wordnet: Annotated[
        bool,
        typer.Option("--wordnet", help="Take half of the nouns from WordNet, if it is installed."),
    ] = False,
    lm: Annotated[
        str | None,
        typer.Option(
            help="A causal language model (hub id or folder) that completes each prompt.",
            metavar="MODEL",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts completed at a time.")] = 64,
    min_length: Annotated[int, typer.Option(help="Least length of a completed prompt.")] = 40,
    max_length: Annotated[int, typer.Option(help="Greatest length, in tokens.")] = 77,
    top_k: Annotated[int, typer.Option(help="Likeliest tokens to draw from.")] = 8,
    temperature: Annotated[float, typer.Option(help="Above 1 is bolder, below 1 tamer.")] = 1.0,
    repeat_tokens: Annotated[
        bool, typer.Option("--repeat-tokens", help="Let a token come twice in a prompt.")
    ] = False,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="Print how diverse the prompts are.")
    ] = False,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Print it beside that of this file of prompts.", metavar="TXT"),
    ] = None,
) -> None:
    """Compose distinct prompts from a grammar, one a line.

    With --lm a language model completes them; an interrupted call goes on when it is repeated.

    Examples:
      unprompt compose -n 100000 -o prompts.txt

      unprompt compose -n 600 --style sketch --seed 7 -o scenes.txt

      unprompt compose -n 150000 --lm FredZhang7/distilgpt2-stable-diffusion-v2 -o prompts.txt

      unprompt compose -n 20000 -o prompts.txt --against others.txt
    """
    from unprompt.collecting.compose import write_composed

    completer, description = None, ""
    if lm is not None:
        from unprompt.collecting.prompts.completion import Completer, Sampling

        sampling = Sampling(min_length, max_length, top_k, temperature, repeat_tokens=repeat_tokens)
        completer = Completer.from_pretrained(lm, sampling, batch_size)
        description = f"{lm}, {batch_size} at a time, {sampling}"
    write_composed(
        n,
        output,
        seed,
        style,
        wordnet=wordnet,
        completer=completer,
        description=description,
    )
    typer.echo(f"{output}: {n:,} prompts", err=True)
    if diversity or against:
        from unprompt.collecting.prompts.diversity import measure_diversity, to_text
        from unprompt.pairs.prompt_file import prompts_of

        files = [output, *(against or [])]
        typer.echo(to_text([measure_diversity(prompts_of(file), str(file)) for file in files]))


@app.command()
def generate(
    prompts: Annotated[Path, typer.Argument(help="Prompts, one a line.", metavar="PROMPTS")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the images and their pairs table.")
    ],
    backend: Annotated[
        str,
        typer.Option(help="diffusers, or sketch: drawings that stand in for a generator's images."),
    ] = "diffusers",
    model: Annotated[
        str | None,
        typer.Option(help="Text-to-image pipeline, hub id or folder [default: SD 2 base]."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the images in pixels [default: the model's own; sketch: 128]."),
    ] = None,
    images_per_prompt: Annotated[
        int, typer.Option(min=1, help="Images of each prompt, each with its own seed.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Another seed gives other images.")] = 0,
    image_format: Annotated[str, typer.Option("--format", help="png, webp or jpeg.")] = "png",
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images in a tar shard of WebDataset [default: single files]."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
    guidance: Annotated[float, typer.Option(help="Weight of the prompt; 1 switches it off.")] = 7.5,
    negative_prompt: Annotated[str | None, typer.Option(help="What is to be avoided.")] = None,
    sampler: Annotated[str, typer.Option(help="dpm++, or default: the pipeline's own.")] = "dpm++",
    precision: Annotated[str, typer.Option(help="auto, fp16, bf16 or fp32.")] = "auto",
    attention: Annotated[str, typer.Option(help="sdpa or xformers.")] = "sdpa",
    batch_size: Annotated[
        int | None, typer.Option(help="Images at a time [default: what fits].")
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser: for many images.")
    ] = False,
    channels_last: Annotated[bool, typer.Option(help="Lay memory out for tensor cores.")] = True,
    vae_slicing: Annotated[bool, typer.Option(help="Decode one image at a time.")] = False,
    vae_tiling: Annotated[bool, typer.Option(help="Decode in tiles, for large images.")] = False,
    safety_checker: Annotated[bool, typer.Option(help="Fail images that it flags.")] = False,
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu…")] = None,
) -> None:
    """Make images of prompts, with a pairs table; the same command again finishes what is missing.

    Several GPUs share the work under accelerate launch or torchrun.

    Examples:
      unprompt generate prompts.txt -o pairs --model stabilityai/stable-diffusion-2-base

      unprompt generate prompts.txt -o turbo --model stabilityai/sd-turbo --steps 1 --guidance 0

      unprompt generate scenes.txt -o sketches --backend sketch --size 64 --images-per-prompt 4

      torchrun --nproc-per-node 8 $(which unprompt) generate prompts.txt -o pairs
    """
    from unprompt.collecting.generate import generate as run
    from unprompt.collecting.images.backends import make_backend
    from unprompt.pairs.prompt_file import prompts_of

    options: dict[str, Any] = {}
    if backend == "diffusers":
        options = {
            "steps": steps,
            "guidance": guidance,
            "negative_prompt": negative_prompt,
            "sampler": sampler,
            "precision": precision,
            "attention": attention,
            "batch_size": batch_size,
            "compile": compile_,
            "channels_last": channels_last,
            "vae_slicing": vae_slicing,
            "vae_tiling": vae_tiling,
            "safety_checker": safety_checker,
            "device": device,
        }
        if model is not None:
            options["model"] = model
    result = run(
        prompts_of(prompts),
        output,
        make_backend(backend, size=size, **options),
        images_per_prompt=images_per_prompt,
        seed=seed,
        format=image_format,
        shard_size=shard_size,
        share=(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))),
    )
    typer.echo(str(result), err=True)
    for name, reason in result.failed.items():
        typer.echo(f"unprompt: {name}: {reason}", err=True)
    if result.failed:
        raise typer.Exit(1)


@app.command()
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
