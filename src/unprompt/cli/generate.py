"""The verb that generates images from prompts."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from unprompt.cli import options


class Backend(StrEnum):
    """Program that generates the images."""

    diffusers = "diffusers"
    sketch = "sketch"


class ImageFormat(StrEnum):
    """Format of the images."""

    png = "png"
    webp = "webp"
    jpeg = "jpeg"


class Sampler(StrEnum):
    """Sampler of the pipeline."""

    dpm = "dpm++"
    default = "default"


class DiffusionPrecision(StrEnum):
    """Number format in which the pipeline computes."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Attention(StrEnum):
    """Implementation of attention."""

    sdpa = "sdpa"
    xformers = "xformers"


def generate(
    prompts: options.Prompts,
    output: options.Output,
    backend: Annotated[
        Backend,
        typer.Option(
            help="sketch draws simple scenes, to try unprompt without an image generator."
        ),
    ] = Backend.diffusers,
    pipeline: Annotated[
        str | None,
        typer.Option(
            help="Text-to-image pipeline: hub id or folder.",
            show_default="Stable Diffusion 2 base",
            metavar="MODEL",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Side of the images in pixels.",
            show_default="the pipeline's own; sketch: 128",
        ),
    ] = None,
    images_per_prompt: Annotated[
        int, typer.Option(min=1, help="Number of images for each prompt; each has its own seed.")
    ] = 1,
    seed: options.Seed = 0,
    image_format: Annotated[ImageFormat, typer.Option(help="Format of the images.")] = (
        ImageFormat.png
    ),
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images in a tar shard.", show_default="no shards"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 25,
    guidance: Annotated[
        float, typer.Option(help="Weight of the prompt; 1 switches guidance off.")
    ] = 7.5,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What the images should not show.")
    ] = None,
    sampler: Annotated[Sampler, typer.Option(help="default is the pipeline's own.")] = Sampler.dpm,
    precision: Annotated[
        DiffusionPrecision, typer.Option(help="auto is fp16 on a GPU and fp32 elsewhere.")
    ] = DiffusionPrecision.auto,
    attention: Annotated[
        Attention, typer.Option(help="Implementation of attention.")
    ] = Attention.sdpa,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in a batch.", show_default="what fits")
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser; worth it for many images.")
    ] = False,
    channels_last: Annotated[
        bool, typer.Option(help="Use the memory order that suits tensor cores.")
    ] = True,
    vae_slicing: Annotated[
        bool, typer.Option("--vae-slicing", help="Decode one image at a time.")
    ] = False,
    vae_tiling: Annotated[
        bool, typer.Option("--vae-tiling", help="Decode in tiles, for large images.")
    ] = False,
    safety_checker: Annotated[
        bool, typer.Option("--safety-checker", help="Fail images that the pipeline flags.")
    ] = False,
    device: options.Device = "auto",
) -> None:
    """Generate images from prompts, with their pairs table.

    The same command again continues where it stopped. To use several GPUs, start it with accelerate
    launch or torchrun.

    [bold]Examples[/bold]

      unprompt generate prompts.txt -o pairs --pipeline stabilityai/stable-diffusion-2-base

      unprompt generate prompts.txt -o turbo --pipeline stabilityai/sd-turbo --steps 1 --guidance 0

      unprompt generate scenes.txt -o sketches --backend sketch --image-size 64

      torchrun --nproc-per-node 8 $(which unprompt) generate prompts.txt -o pairs
    """
    from unprompt.collecting.generate import generate as run
    from unprompt.collecting.images.backends import make_backend
    from unprompt.pairs.prompt_file import prompts_of

    made = make_backend(
        backend,
        size=image_size,
        model=pipeline,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative_prompt,
        sampler=sampler,
        precision=precision,
        attention=attention,
        batch_size=batch_size,
        compile=compile_,
        channels_last=channels_last,
        vae_slicing=vae_slicing,
        vae_tiling=vae_tiling,
        safety_checker=safety_checker,
        device=device,
    )
    result = run(
        prompts_of(prompts),
        output,
        made,
        images_per_prompt=images_per_prompt,
        seed=seed,
        format=image_format,
        shard_size=shard_size,
    )
    typer.echo(str(result), err=True)
    for name, reason in result.failed.items():
        options.note(f"{name}: {reason}")
    if result.failed:
        raise typer.Exit(1)
