"""Prompts composed from a grammar over word lists of our own, each different from the others."""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import blake2b

from unprompt.collecting.prompts.grammar import Grammar, load_grammar
from unprompt.collecting.prompts.wordnet import wordnet_grammar
from unprompt.collecting.sketches.scene import sketch_grammar
from unprompt.errors import UnpromptError

STYLES = ("caption", "artist", "mixed", "sketch")
"""``caption`` says what is to be seen; ``artist`` adds medium, painter, light and quality words;
``mixed`` is both in equal parts; ``sketch`` are the scenes that the sketch backend can draw."""

_MAX_REPEATS = 2_000


def compose(n: int, seed: int = 0, style: str = "mixed", *, wordnet: bool = False) -> Iterator[str]:
    """Compose ``n`` distinct prompts.

    The first prompts of a longer call are those of a shorter one with the same seed and style.

    Args:
        n: how many.
        seed: another seed gives other prompts.
        style: one of `STYLES`.
        wordnet: take half of the nouns from WordNet.

    Yields:
        One prompt, without line breaks.

    Raises:
        UnpromptError: an unknown style, a negative number, WordNet is not installed (or asked for
            with sketches), or more prompts than the grammar holds (over a hundred million in each
            style but ``sketch``).
    """
    if style not in STYLES:
        raise UnpromptError(f"unknown style '{style}'; choose one of {', '.join(STYLES)}")
    if n < 0:
        raise UnpromptError(f"cannot compose {n} prompts; ask for 0 or more")
    if wordnet and style == "sketch":
        raise UnpromptError("sketches are drawn of a few known things; leave WordNet out")
    if style == "sketch":
        grammar = sketch_grammar()
    else:
        grammar = wordnet_grammar() if wordnet else load_grammar()
    return _compose(n, seed, style, grammar)


def _compose(n: int, seed: int, style: str, grammar: Grammar) -> Iterator[str]:
    rng = random.Random(f"{style}/{seed}")  # noqa: S311 -- not for secrets
    seen: set[int] = set()
    repeats = 0
    while len(seen) < n:
        start = style
        if style == "mixed":
            start = "caption" if rng.random() < 0.5 else "artist"
        prompt = grammar.draw(start, rng)
        key = text_key(prompt)
        if key in seen:
            repeats += 1
            if repeats > _MAX_REPEATS:
                raise UnpromptError(
                    f"only {len(seen):,} distinct prompts of the style '{style}' were found, "
                    f"not {n:,}; ask for fewer or choose another style"
                )
            continue
        repeats = 0
        seen.add(key)
        yield prompt


def text_key(text: str) -> int:
    """A hash that stands for a text in a set of texts seen.

    64 bits take a quarter of the memory of the prompts, and among a million of them two clash
    once in 10^7 times; Python's own hash would differ from process to process.
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
