"""Distinct prompts composed from a grammar, and optionally completed by a language model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from unprompt.collecting import journal
from unprompt.collecting.prompts.grammar import load_grammar
from unprompt.collecting.prompts.wordnet import wordnet_grammar
from unprompt.collecting.sketches.scene import sketch_grammar
from unprompt.errors import UnpromptError
from unprompt.pairs.prompt_file import text_key, write_prompts
from unprompt.progress import track

STYLES = ("caption", "artist", "mixed", "sketch")
"""``caption`` describes the image; ``artist`` adds medium, painter, light and quality words;
``mixed`` is half of each; ``sketch`` describes scenes that the sketch backend can draw."""

CHUNK = 2048
"""Prompts completed for one journal entry; a killed process loses at most this many."""

_MAX_REPEATS = 2_000


class Completes(Protocol):
    """Completes prompts, as `unprompt.collecting.prompts.completion.Completer` does."""

    def complete(self, prompts: list[str], seed: int) -> list[str]:
        """The prompts with their continuations, in order."""
        ...


def compose(
    n: int | None, seed: int = 0, style: str = "mixed", *, wordnet: bool = False
) -> Iterator[str]:
    """Compose distinct prompts from a grammar over word lists.

    With the same seed and style, a longer call begins with the prompts of a shorter one.

    Args:
        n: number of prompts; None for all that the grammar can make.
        seed: random seed.
        style: one of `STYLES`.
        wordnet: take half of the nouns from WordNet.

    Yields:
        One prompt, without line breaks.

    Raises:
        UnpromptError: the style is unknown, the number is negative, WordNet is not installed or
            combined with ``sketch``, or the grammar cannot make so many prompts (every style except
            ``sketch`` can make over a hundred million).
    """
    if style not in STYLES:
        raise UnpromptError(f"unknown style '{style}'; choose one of {', '.join(STYLES)}")
    if n is not None and n < 0:
        raise UnpromptError(f"cannot compose {n} prompts; ask for 0 or more")
    if wordnet and style == "sketch":
        raise UnpromptError("sketches can show only a few known things; leave out WordNet")
    if style == "sketch":
        grammar = sketch_grammar()
    else:
        grammar = wordnet_grammar() if wordnet else load_grammar()

    def prompts() -> Iterator[str]:
        rng = random.Random(f"{style}/{seed}")  # noqa: S311 -- not for secrets
        seen: set[int] = set()
        repeats = 0
        while n is None or len(seen) < n:
            start = style
            if style == "mixed":
                start = "caption" if rng.random() < 0.5 else "artist"
            prompt = grammar.sample(start, rng)
            if (key := text_key(prompt)) not in seen:
                repeats = 0
                seen.add(key)
                yield prompt
            elif (repeats := repeats + 1) > _MAX_REPEATS:
                raise UnpromptError(
                    f"only {len(seen):,} distinct prompts of the style '{style}' were found; ask "
                    "for fewer or choose another style"
                )

    return prompts()


def compose_file(
    n: int,
    path: str | Path,
    seed: int = 0,
    style: str = "mixed",
    *,
    wordnet: bool = False,
    completer: Completes | None = None,
    description: str = "",
    chunk: int = CHUNK,
) -> None:
    """Write ``n`` distinct prompts to a text file, one a line.

    A completer continues each prompt of the grammar. Repeated prompts are replaced by others. Every
    finished chunk is recorded in ``.NAME.partial`` beside the file, so a call with the same
    arguments continues a killed one, and writes the same file as a call that was never stopped.

    Args:
        n: number of prompts.
        path: the file to write.
        seed: as in `compose`.
        style: as in `compose`.
        wordnet: as in `compose`.
        completer: completes the prompts.
        description: the completer's model and settings; chunks that were completed with another
            description are discarded.
        chunk: prompts completed for one journal entry.

    Raises:
        UnpromptError: as in `compose`, or all completions of a chunk repeat earlier ones.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if completer is None:
        prompts = compose(n, seed, style, wordnet=wordnet)
        write_prompts(track(prompts, "composing", total=n), path)
        return
    header = {"n": n, "seed": seed, "style": style, "wordnet": wordnet}
    partial = path.with_name(f".{path.name}.partial")
    done = _finished_chunks(partial, {**header, "lm": description, "chunk": chunk})
    completed = [prompt for entry in done for prompt in entry["prompts"]]
    beginnings = compose(None, seed, style, wordnet=wordnet)
    used = sum(entry["beginnings"] for entry in done)
    next(islice(beginnings, used, used), None)
    new = _complete(n, seed, beginnings, completer, chunk, completed, partial)
    completed += list(track(new, "completing", total=n - len(completed)))
    write_prompts(completed, path)
    partial.unlink(missing_ok=True)


def _complete(
    n: int,
    seed: int,
    beginnings: Iterator[str],
    completer: Completes,
    chunk: int,
    completed: list[str],
    partial: Path,
) -> Iterator[str]:
    """Complete chunks until there are ``n`` distinct prompts."""
    seen = {text_key(prompt) for prompt in completed}
    while len(seen) < n:
        batch = list(islice(beginnings, chunk))
        new = []
        for prompt in completer.complete(batch, seed):
            key = text_key(prompt)
            if key not in seen and len(seen) < n:
                seen.add(key)
                new.append(prompt)
        if not new:
            raise UnpromptError(
                f"{chunk} completed prompts in a row repeat earlier ones; use another seed, style "
                "or model"
            )
        journal.append(partial, [journal.to_line({"beginnings": len(batch), "prompts": new})])
        yield from new


def _finished_chunks(partial: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """Entries of an earlier call with the same header; a journal with another one is deleted."""
    found = [entry for _, entry in journal.entries(partial)]
    if found[:1] == [header]:
        return found[1:]
    partial.unlink(missing_ok=True)
    journal.append(partial, [journal.to_line(header)])
    return []
