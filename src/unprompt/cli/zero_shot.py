"""The verbs that make models from a public CLIP and a list of prompts, without images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options

zero_shot = typer.Typer(
    help="Make a model from a public CLIP and a list of prompts; no image is needed.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Head(StrEnum):
    """Type of head."""

    linear = "linear"
    mlp = "mlp"


class Mode(StrEnum):
    """How an interrogator chooses phrases."""

    fast = "fast"
    best = "best"


Clip = Annotated[
    str,
    typer.Argument(
        help="Image and text tower: hf_clip/ID, open_clip/NAME:TAG or hf/ID (SigLIP); ID may be a "
        "folder.",
        metavar="CLIP",
    ),
]


@zero_shot.command()
def head(
    clip: Clip,
    prompts: options.Prompts,
    output: options.Output,
    head: Annotated[Head, typer.Option(help="Type of head.")] = Head.linear,
    hidden: Annotated[int, typer.Option(min=1, help="Width of an mlp's hidden layer.")] = 4096,
    noise: Annotated[
        float,
        typer.Option(
            min=0,
            help="Standard deviation of noise on text features, to make them more like images.",
        ),
    ] = 0.0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the prompts, for an mlp.")] = 20,
    encoder: options.Encoder = options.ENCODER,
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Fit a head to prompts alone, so that CLIP's image tower becomes an embedder.

    To train the model further, use a recipe with model.start=DIR.

    [bold]Examples[/bold]

      unprompt zero-shot head hf_clip/openai/clip-vit-large-patch14 prompts.txt -o zero-shot

      unprompt evaluate zero-shot pairs.parquet --split test

      unprompt train recipe.yaml model.start=zero-shot
    """
    from unprompt.errors import need

    need("train", "torch")
    from unprompt.models.heads import HeadConfig
    from unprompt.training.head.zero_shot import fit_zero_shot_head

    fitted = fit_zero_shot_head(
        clip,
        prompts,
        HeadConfig(head.value, hidden),
        noise,
        epochs,
        encoder,
        device,
        seed,
    )
    fitted.embedder.save_pretrained(output)
    typer.echo(f"{output}: {fitted}", err=True)


@zero_shot.command()
def knn(
    clip: Clip,
    prompts: options.Prompts,
    output: options.Output,
    index: options.IndexOption = options.Index.flat,
    encoder: options.Encoder = options.ENCODER,
    precision: options.PrecisionOption = options.Precision.auto,
    device: options.Device = "auto",
) -> None:
    """Make a model that averages the prompts that CLIP finds nearest to an image.

    [bold]Examples[/bold]

      unprompt zero-shot knn hf_clip/openai/clip-vit-large-patch14 prompts.txt -o knn

      unprompt predict picture.png --model knn
    """
    from unprompt.predicting.build_models import build_knn

    built = build_knn(prompts, output, clip, index, encoder, precision, device)
    typer.echo(f"{output}: {len(built):,} prompts", err=True)


@zero_shot.command()
def interrogator(
    clip: Clip,
    output: options.Output,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="Model that writes the subject.", show_default="a phrase", metavar="MODEL"
        ),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="fast: take the nearest phrases of each category. best: add phrases one by one "
            "while the whole prompt comes nearer to the image."
        ),
    ] = Mode.fast,
    phrases: Annotated[
        Path | None,
        typer.Option(
            help="Folder with your own lists: CATEGORY.txt, one phrase a line.", metavar="DIR"
        ),
    ] = None,
    flavors: Annotated[int, typer.Option(min=0, help="Number of flavors in mode fast.")] = 3,
    device: options.Device = "auto",
) -> None:
    r"""Make a model that composes prompts from phrases that CLIP ranks against the image.

    The phrases are encoded now, once for each CLIP.

    [bold]Examples[/bold]

      unprompt zero-shot interrogator hf_clip/openai/clip-vit-large-patch14 -o asks

      unprompt zero-shot interrogator hf_clip/openai/clip-vit-large-patch14 -o asks \
        --captioner Salesforce/blip-image-captioning-large --mode best

      unprompt predict picture.png --model asks
    """
    from unprompt.predicting.build_models import build_interrogator
    from unprompt.predicting.interrogator_model import InterrogatorConfig

    folder = None if phrases is None else str(phrases)
    config = InterrogatorConfig(clip, captioner, mode.value, folder, flavors)
    made = build_interrogator(config, output, device)
    count = sum(len(of) for of in made.phrases.values())
    typer.echo(f"{output}: {count:,} phrases in {', '.join(made.phrases)}", err=True)
