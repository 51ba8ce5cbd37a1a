"""The verb that makes an interrogator of a CLIP."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import app


class Mode(StrEnum):
    """How phrases are chosen."""

    fast = "fast"
    best = "best"


@app.command()
def interrogator(
    clip: Annotated[
        str,
        typer.Argument(help="hf_clip/ID_OR_DIR, open_clip/NAME[:TAG] or hf/ID_OR_DIR (SigLIP)."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    captioner: Annotated[
        str | None,
        typer.Option(help="Model that writes the subject; without one it is a phrase too."),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="fast: the nearest phrases of each category. best: phrase by phrase, as long as "
            "the whole prompt comes nearer to the image."
        ),
    ] = Mode.fast,
    phrases: Annotated[
        Path | None,
        typer.Option(help="Folder of lists, CATEGORY.txt with a phrase a line, instead of ours."),
    ] = None,
    flavors: Annotated[int, typer.Option(min=0, help="Flavors that fast adds.")] = 3,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
) -> None:
    r"""Make a model that composes prompts of phrases, ranked by a CLIP, behind a caption.

    The phrases are embedded now, once for each CLIP. The folder is used like any model
    (docs/zero_shot.md).

    [bold]Examples[/bold]

      unprompt interrogator hf_clip/openai/clip-vit-large-patch14 -o asks

      unprompt interrogator hf_clip/openai/clip-vit-large-patch14 -o asks \
        --captioner Salesforce/blip-image-captioning-large --mode best

      unprompt predict picture.png --model asks

      unprompt predict picture.png --model hf_clip/openai/clip-vit-base-patch32
    """
    from unprompt.predicting.interrogator_model import (
        InterrogatorConfig,
        build_interrogator,
        save_interrogator,
    )
    from unprompt.predicting.public_weights import advice

    folder = None if phrases is None else str(phrases)
    config = InterrogatorConfig(clip, captioner, mode.value, folder, flavors)
    with advice(clip):
        made = build_interrogator(config, str(output), output, device)
    save_interrogator(output, config)
    count = sum(len(of) for of in made.phrases.values())
    typer.echo(f"{output}: {count:,} phrases in {', '.join(made.phrases)}", err=True)
