"""The verb that composes prompts."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unprompt.cli import options


class Style(StrEnum):
    """Style of the prompts."""

    caption = "caption"
    artist = "artist"
    mixed = "mixed"
    sketch = "sketch"


def compose(
    output: options.Output,
    n: Annotated[int, typer.Option("-n", min=0, help="Number of prompts.")] = 1000,
    style: Annotated[
        Style,
        typer.Option(
            help="caption describes the image, artist adds a style, mixed is half of each, sketch "
            "describes a scene that unprompt can draw."
        ),
    ] = Style.mixed,
    wordnet: Annotated[
        bool,
        typer.Option("--wordnet", help="Take half of the nouns from WordNet, if it is installed."),
    ] = False,
    seed: options.Seed = 0,
    lm: Annotated[
        str | None,
        typer.Option(
            help="A causal language model (hub id or folder) that completes each prompt.",
            metavar="MODEL",
        ),
    ] = None,
    lm_batch_size: Annotated[
        int, typer.Option(min=1, help="Prompts that the language model completes at a time.")
    ] = 64,
    lm_min_length: Annotated[
        int, typer.Option(min=1, help="Least length of a completed prompt, in tokens.")
    ] = 40,
    lm_max_length: Annotated[
        int, typer.Option(min=1, help="Greatest length of a completed prompt, in tokens.")
    ] = 77,
    lm_top_k: Annotated[
        int,
        typer.Option(min=1, help="The language model samples from this many likeliest tokens."),
    ] = 8,
    lm_temperature: Annotated[
        float,
        typer.Option(
            help="Above 1 the language model's choice of tokens varies more, below 1 less."
        ),
    ] = 1.0,
    lm_repeat_tokens: Annotated[
        bool, typer.Option("--lm-repeat-tokens", help="Allow repeated tokens in a prompt.")
    ] = False,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="Print the diversity of the prompts.")
    ] = False,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            help="Also print the diversity of this file of prompts; may be repeated.",
            metavar="PROMPTS",
        ),
    ] = None,
) -> None:
    """Compose distinct prompts from a grammar, one a line.

    A language model may complete them (--lm). The same command again continues where it stopped.

    [bold]Examples[/bold]

      unprompt compose -n 100000 -o prompts.txt

      unprompt compose -n 600 --style sketch --seed 7 -o scenes.txt

      unprompt compose -n 150000 --lm FredZhang7/distilgpt2-stable-diffusion-v2 -o prompts.txt

      unprompt compose -n 20000 -o prompts.txt --beside others.txt
    """
    from unprompt.collecting.compose import compose_file

    completer, description = None, ""
    if lm is not None:
        from unprompt.collecting.prompts.completion import Completer, Sampling

        sampling = Sampling(
            lm_min_length, lm_max_length, lm_top_k, lm_temperature, repeat_tokens=lm_repeat_tokens
        )
        completer = Completer.from_pretrained(lm, sampling, lm_batch_size)
        description = f"{lm}, {lm_batch_size} at a time, {sampling}"
    compose_file(
        n, output, seed, style, wordnet=wordnet, completer=completer, description=description
    )
    typer.echo(f"{output}: {n:,} prompts", err=True)
    if diversity or beside:
        from unprompt.collecting.prompts.diversity import measure_diversity, to_text
        from unprompt.pairs.prompt_file import prompts_of

        files = [output, *(beside or [])]
        typer.echo(to_text([measure_diversity(prompts_of(file), str(file)) for file in files]))
