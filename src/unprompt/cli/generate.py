"""The verb that makes images of prompts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


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
