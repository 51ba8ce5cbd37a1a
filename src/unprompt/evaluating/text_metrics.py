"""What a model's answers are worth in words: the text that a person is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unprompt.collecting.prompts.diversity import distinct_ngrams
from unprompt.encoding import encode
from unprompt.errors import need
from unprompt.evaluating.metrics import (
    Bin,
    Score,
    cosines,
    mean_with_interval,
    reliability,
    score_dict,
)


@dataclass(frozen=True)
class Words:
    """Written answers beside the true prompts.

    Attributes:
        texts: the answers.
        cosine: mean cosine between the embeddings of answer and true prompt.
        values: the same of each pair, float64 of shape (n,).
        exact: share of answers that are the true prompt to the letter, in [0, 1].
        bleu: corpus BLEU with sacrebleu's defaults, in [0, 100] (Post 2018, arXiv 1804.08771).
        chrf: corpus chrF2, in [0, 100] (Popović 2015).
        distinct: share of different words, pairs and triples of words among all those of the
            answers; answers that repeat each other have few.
        reliability: the scores that the model gave its answers beside those they turned out to
            have; None where it gave none.
    """

    texts: list[str] = field(repr=False)
    cosine: Score
    values: np.ndarray = field(repr=False)
    exact: float
    bleu: float
    chrf: float
    distinct: tuple[float, float, float]
    reliability: list[Bin] | None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the texts, ready for JSON."""
        return {
            **score_dict(self.cosine),
            "exact": round(self.exact, 4),
            "bleu": round(self.bleu, 2),
            "chrf": round(self.chrf, 2),
            "distinct": [round(share, 4) for share in self.distinct],
            "reliability": self.reliability
            and [
                {
                    "estimated": round(part.estimated, 4),
                    "actual": round(part.actual, 4),
                    "pairs": part.count,
                }
                for part in self.reliability
            ],
        }


def measure_words(
    texts: Sequence[str],
    prompts: Sequence[str],
    true: np.ndarray,
    encoder: str,
    scores: Sequence[float | None] | None = None,
    groups: np.ndarray | None = None,
) -> Words:
    """Measure answers.

    Args:
        texts: the answers, n of them, n > 0.
        prompts: the true prompts.
        true: their embeddings, float32 of shape (n, dim).
        encoder: the target encoder, which the answers are encoded with.
        scores: the model's own estimate of each answer's cosine to the truth.
        groups: group of each pair, shape (n,), for the interval.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    need("train", "sacrebleu")
    from sacrebleu import corpus_bleu, corpus_chrf

    values = cosines(encode(list(texts), encoder, precision="fp32"), true)
    estimated = None
    if scores is not None and all(score is not None for score in scores):
        estimated = np.array(scores, dtype=np.float64)
    return Words(
        texts=list(texts),
        cosine=mean_with_interval(values, groups),
        values=values,
        exact=sum(map(str.__eq__, texts, prompts)) / len(texts),
        bleu=corpus_bleu(list(texts), [list(prompts)]).score,
        chrf=corpus_chrf(list(texts), [list(prompts)]).score,
        distinct=distinct_ngrams(texts),
        reliability=None if estimated is None else reliability(estimated, values),
    )
