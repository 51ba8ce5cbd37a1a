"""Measures of the diversity of prompts."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER, encode
from unprompt.errors import UnpromptError

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True)
class Diversity:
    """Diversity of a sample of prompts; only samples of the same size can be compared.

    Attributes:
        name: name of the prompts.
        prompts: size of the sample.
        words: mean number of words in a prompt.
        vocabulary: number of different words.
        distinct: share of different n-grams among all n-grams of words, for n = 1, 2, 3
            (distinct-n, section 4 of https://arxiv.org/abs/1510.03055).
        nearest: mean cosine between the embeddings of a prompt and of its nearest prompt.
    """

    name: str
    prompts: int
    words: float
    vocabulary: int
    distinct: tuple[float, float, float]
    nearest: float


def measure_diversity(
    prompts: Sequence[str],
    name: str = "prompts",
    sample: int = 2000,
    seed: int = 0,
    encoder: str = DEFAULT_ENCODER,
) -> Diversity:
    """Measure a random sample of prompts.

    Args:
        prompts: at least two.
        name: their name in the result.
        sample: largest size of the sample.
        seed: seed that selects the sample.
        encoder: hub id or path of the prompt encoder.

    Raises:
        UnpromptError: fewer than two prompts, or the encoder cannot be loaded.
    """
    if min(len(prompts), sample) < 2:
        raise UnpromptError(f"{name}: diversity needs two prompts or more")
    if len(prompts) > sample:
        prompts = random.Random(seed).sample(prompts, sample)  # noqa: S311 -- not for secrets
    texts = [_WORD.findall(prompt.lower()) for prompt in prompts]
    embeddings = encode(list(prompts), encoder)
    return Diversity(
        name=name,
        prompts=len(prompts),
        words=sum(map(len, texts)) / len(texts),
        vocabulary=len({word for words in texts for word in words}),
        distinct=distinct_ngrams(prompts),
        nearest=_nearest(embeddings),
    )


def distinct_ngrams(prompts: Sequence[str]) -> tuple[float, float, float]:
    """Share of different n-grams among all n-grams of words, for n = 1, 2, 3; see `Diversity`."""
    texts = [_WORD.findall(prompt.lower()) for prompt in prompts]
    return _distinct(texts, 1), _distinct(texts, 2), _distinct(texts, 3)


def to_text(measured: Sequence[Diversity]) -> str:
    """An aligned text table, one line for each set of prompts."""
    header = ["", "prompts", "words", "vocabulary", "distinct-1", "-2", "-3", "nearest cosine"]
    lines = [
        [
            one.name,
            f"{one.prompts:,}",
            f"{one.words:.1f}",
            f"{one.vocabulary:,}",
            *(f"{share:.3f}" for share in one.distinct),
            f"{one.nearest:.3f}",
        ]
        for one in measured
    ]
    table = [header, *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def _distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def _nearest(embeddings: np.ndarray, block: int = 1024) -> float:
    total = 0.0
    for start in range(0, len(embeddings), block):
        cosine = embeddings[start : start + block] @ embeddings.T
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -np.inf
        total += float(cosine.max(axis=1).sum())
    return total / len(embeddings)
