"""The verb that composes prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    from unprompt.collecting.compose import compose_file

    completer, description = None, ""
    if lm is not None:
        from unprompt.collecting.prompts.completion import Completer, Sampling

        sampling = Sampling(min_length, max_length, top_k, temperature, repeat_tokens=repeat_tokens)
        completer = Completer.from_pretrained(lm, sampling, batch_size)
        description = f"{lm}, {batch_size} at a time, {sampling}"
    compose_file(
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
